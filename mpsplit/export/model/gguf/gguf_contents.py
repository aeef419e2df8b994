"""What a GGUF file holds, for people and for programs.

In: a path. Out: text, or a dict.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpsplit.errors import ModelError
from mpsplit.export.model.gguf.gguf_config import config_of
from mpsplit.export.model.gguf.gguf_header import GgufModel, read_gguf
from mpsplit.export.model.gguf.gguf_tokenizer import NoTokenizer, tokenizer_of
from mpsplit.plan.model_facts import ModelFacts

LETTERS = 60  # of a setting


@dataclass(frozen=True)
class OfType:
    """What is stored in one type."""

    name: str
    tensors: int
    weights: int
    bytes: int

    @property
    def bits(self) -> float:
        """Of a weight."""
        return 8 * self.bytes / self.weights


def of_types(gguf: GgufModel) -> list[OfType]:
    """What takes the most first."""
    by_name: dict[str, list[tuple[int, int]]] = {}
    for tensor in gguf.tensors.values():
        by_name.setdefault(tensor.kind.name, []).append((math.prod(tensor.shape), tensor.bytes))
    found = [OfType(name, len(each), *map(sum, zip(*each, strict=True))) for name, each in by_name.items()]
    return sorted(found, key=lambda of_type: -of_type.bytes)


def describe(path: Path) -> dict[str, Any]:
    """`split` and `tokenizer` say why not, where they cannot be."""
    gguf = read_gguf(path)
    try:
        facts, split = ModelFacts.from_config(config_of(gguf)).to_json(), ""
    except ModelError as wrong:
        facts, split = None, str(wrong)
    try:
        tokenizer = f"{tokenizer_of(gguf).get_vocab_size():,} tokens"
    except NoTokenizer as why:
        tokenizer = f"none, for {why}"
    return {
        "files": [{"path": str(file), "bytes": file.stat().st_size} for file in gguf.files],
        "settings": {name: short(value) for name, value in gguf.settings.items()},
        "types": [asdict(of_type) | {"bits": round(of_type.bits, 3)} for of_type in of_types(gguf)],
        "facts": facts,
        "why_not_split": split,
        "tokenizer": tokenizer,
    }


def show(path: Path) -> None:
    said = describe(path)
    for file in said["files"]:
        print(f"{file['path']}: {file['bytes']:,} bytes")
    print("\nstored as  tensors      weights        bytes  bits a weight")
    for of_type in said["types"]:
        print("{name:<9}{tensors:>9}{weights:>13,}{bytes:>13,}{bits:>15.3f}".format(**of_type))
    print(f"\ntokenizer: {said['tokenizer']}")
    if said["facts"]:
        print(", ".join(f"{name} {value}" for name, value in said["facts"].items()))
        print(f"next: mpsplit partition {path} --out PACKAGE --ranks N")
    else:
        print(f"it cannot be split: {said['why_not_split']}")
    print()
    for name, value in said["settings"].items():
        print(f"{name:<40} {value}")


def short(value: Any) -> Any:
    """Of a list how many, of a text its beginning."""
    if isinstance(value, list):
        return f"{len(value):,} of them"
    text = " ".join(value.split()) if isinstance(value, str) else value
    return f"{text[:LETTERS]} ... ({len(value):,} letters)" if isinstance(text, str) and len(text) > LETTERS else text
