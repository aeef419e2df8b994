"""Where a model comes from and what its config says.

In: MODEL as the user typed it. Out: a local directory, which for a GGUF file lies in the cache, and
a dict. No torch. `find_model` brings the
weights, `find_config` does not: a plan needs config.json alone, and says what the weights would
take.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import ModelError
from mpsplit.export.model.factory_folder import factory_folder, is_factory
from mpsplit.export.model.gguf.gguf_folder import unpacked, weights_of
from mpsplit.export.model.gguf.gguf_header import read_gguf
from mpsplit.families.family import GGUF

WEIGHTS = ["*.safetensors", "pytorch_model*.bin"]
CONFIG = ["*.json", "tokenizer*", "*.jinja"]


def find_model(model: str) -> Path:
    """The local directory of MODEL: itself, or a hub id downloaded."""
    return _find(model, CONFIG + WEIGHTS)


@functools.cache
def find_config(model: str) -> Path:
    """A directory with MODEL's config.json; of a hub id nothing else is downloaded but the index of
    its weights."""
    return _find(model, ["config.json", "*.index.json"])


def _find(model: str, wanted: list[str]) -> Path:
    path = Path(model)
    if is_factory(model):
        return factory_folder(model)
    if path.suffix == GGUF and path.is_file():
        return unpacked(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} has no config.json; MODEL is a Hugging Face directory with config, weights and tokenizer"
            )
        return path
    looks_local = path.exists() or model.count("/") != 1 or model.startswith((".", "/", "~"))
    if looks_local:
        raise ModelError(
            f"there is no model {model}; give a Hugging Face directory, a {GGUF} file or a hub id such as org/name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=wanted))
    except Exception as wrong:  # the hub client raises many kinds; each means that the model cannot be had
        reason = str(wrong).strip().splitlines()[0]
        raise ModelError(f"{model} is neither a directory here nor to be had from the hub ({reason})") from None


def read_config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as wrong:
        raise ModelError(f"{folder / 'config.json'} is not JSON ({wrong}); download it again") from None


@dataclass(frozen=True)
class Stored:
    """What the checkpoint takes on disk, and the types of its tensors, as far as headers and index
    tell."""

    size: int
    types: tuple[str, ...]


def stored(folder: Path) -> Stored | None:
    """From the headers of GGUF or safetensors files, or from an index where there are none; None
    where neither is there."""
    if gguf := weights_of(folder):
        tensors = read_gguf(gguf).tensors.values()
        return Stored(sum(tensor.bytes for tensor in tensors), tuple(sorted({tensor.kind.name for tensor in tensors})))
    headers = [header(file)[1] for file in sorted(folder.glob("*.safetensors"))]
    if headers:
        entries = [entry for header in headers for name, entry in header.items() if name != "__metadata__"]
        ends = [entry["data_offsets"] for entry in entries]
        return Stored(sum(b - a for a, b in ends), tuple(sorted({entry["dtype"] for entry in entries})))
    for index in sorted(folder.glob("*.index.json")):
        size = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
        if size:
            return Stored(int(size), ())
    return None


def header(file: Path) -> tuple[int, dict]:
    """(where the tensors begin, the header) of a safetensors file: it begins with the length of its
    header, 8 bytes, and that as JSON."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length < min(file.stat().st_size, 100 << 20):
            raise ModelError(f"{file} ({file.stat().st_size} bytes) has no safetensors header; download it again")
        try:
            return 8 + length, json.loads(opened.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError) as wrong:
            raise ModelError(f"{file} has a damaged header ({wrong}); download it again") from None
