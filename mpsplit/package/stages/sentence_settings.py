"""How a text's hidden states become its embedding, as sentence-transformers describes it.

In: modules.json of a model, and the files it names. Out: SentenceSettings, which the package keeps.

Invariant: what is described is done, or refused with its name; a part left out would give other
vectors, which nobody would notice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsplit.errors import ModelError
from mpsplit.package.json_fields import flag, many, one_of, record, text, whole

MODULES, OF_TEXTS, OF_ALL = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
TRANSFORMER, POOLING, NORMALISE = "Transformer", "Pooling", "Normalize"
# names of pooling, in the order in which several are joined, and the older fields that ask for them
OLDER = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
MOST_PROMPT = 10_000  # characters


@dataclass(frozen=True)
class SentenceSettings:
    """`pooling`: names of OLDER, whose vectors are joined; `normalise`: to a length of 1.
    `longest`: tokens that the model was made for, 0 for as many as it has room for. `lower`: a text
    is put in lower case first. `prompt` stands before every text."""

    pooling: tuple[str, ...]
    normalise: bool
    longest: int = 0
    lower: bool = False
    prompt: str = ""

    @classmethod
    def read(cls, model: Path) -> SentenceSettings | None:
        """Of a model's folder; None where nothing describes it."""
        if not (model / MODULES).is_file():
            return None
        folders = {_kind(module): str(module.get("path", "")) for module in _read(model / MODULES, list)}
        for kind in folders:
            if kind not in (TRANSFORMER, POOLING, NORMALISE):
                raise ModelError(
                    f"{model / MODULES} has a {kind} after the model; known are {POOLING} and {NORMALISE}: take it out"
                    " there to have embeddings without it"
                )
        if POOLING not in folders:
            return None
        said = _read(model / folders[POOLING] / "config.json")
        texts, general = _read(model / OF_TEXTS), _read(model / OF_ALL)
        prompt = (general.get("prompts") or {}).get(general.get("default_prompt_name")) or ""
        if prompt and said.get("include_prompt") is False:
            raise ModelError(
                f"{model}: the tokens of the prompt {prompt!r} are not to be pooled, which is not known here"
            )
        return cls(
            pooling=_pooling(said, model / folders[POOLING] / "config.json"),
            normalise=NORMALISE in folders,
            longest=texts.get("max_seq_length") or 0,
            lower=bool(texts.get("do_lower_case")),
            prompt=prompt,
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SentenceSettings:
        KIND(data, "sentences")
        return cls(**{name: data[name] for name in cls.__dataclass_fields__} | {"pooling": tuple(data["pooling"])})


KIND = record(
    {"pooling": many(one_of(tuple(OLDER)), len(OLDER)), "normalise": flag, "longest": whole(0, 1 << 24), "lower": flag}
    | {"prompt": text(rf"(?s:.{{0,{MOST_PROMPT}}})", f"a text of at most {MOST_PROMPT} characters")}
)


def _kind(module: Any) -> str:
    """Its class, whichever version's package that is in."""
    return str(module.get("type", "") if isinstance(module, dict) else module).rpartition(".")[2]


def _pooling(said: dict[str, Any], path: Path) -> tuple[str, ...]:
    named = said.get("pooling_mode")
    if named is None:
        asked = {name for name, field in OLDER.items() if said.get(field)}
    else:
        asked = set(named if isinstance(named, list) else str(named).split("+"))
    if not asked or (unknown := asked - set(OLDER)):
        wanted = ", ".join(sorted(map(str, unknown))) if asked else "nothing"
        raise ModelError(f"{path} asks for {wanted}; pooling may be {', '.join(OLDER)}")
    return tuple(name for name in OLDER if name in asked)


def _read(path: Path, kind: type = dict) -> Any:
    """Nothing where there is no such file."""
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else kind()
    except ValueError as wrong:
        raise ModelError(f"{path} is not JSON ({wrong}); download it again") from None
    if not isinstance(said, kind):
        raise ModelError(f"{path} holds a {type(said).__name__}, where a {kind.__name__} belongs; download it again")
    return said
