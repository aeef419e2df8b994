"""What a plan needs to know of a model.

In: config.json as a dict. Out: ModelFacts, or the reason why not.

Invariant: a model that passes here is of a known family, whose table has a cut for every weight.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mpsplit.errors import ModelError
from mpsplit.families import FAMILIES, Family, family_of
from mpsplit.families.family import NO_WINDOW, WINDOW_IF_ASKED


@dataclass(frozen=True)
class ModelFacts:
    """Sizes in elements; `context` in tokens; `window` is the sliding window in tokens, 0
    for none."""

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    context: int
    tied: bool
    window: int = 0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelFacts:
        architecture, family = family_of(config)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in family.ropes:
            raise ModelError(
                f"rotary embedding of type {kind} is not supported; supported are {', '.join(family.ropes)}"
            )

        def size(name: str, otherwise: int | None = None) -> int:
            found = config[name] if otherwise is None else config.get(name) or otherwise
            if type(found) is not int or found < 1:
                raise ModelError(f"config.json has {name} = {found!a:.40}, which must be 1 or more")
            return found

        try:
            heads = size("num_attention_heads")
            if heads % size("num_key_value_heads", heads):
                raise ModelError(
                    f"config.json has {heads} heads for {config['num_key_value_heads']} of keys and values"
                )
            return cls(
                architecture=architecture,
                hidden=size("hidden_size"),
                layers=size("num_hidden_layers"),
                heads=heads,
                kv_heads=size("num_key_value_heads", heads),
                head_dim=size("head_dim", size("hidden_size") // heads),
                mlp=size("intermediate_size"),
                vocabulary=size("vocab_size"),
                context=size("max_position_embeddings"),
                tied=bool(config.get("tie_word_embeddings", family.tied)),
                window=_window(config, family),
            )
        except KeyError as missing:
            raise ModelError(f"config.json has no {missing}; a {architecture} needs it") from None

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def is_decoder(config: dict[str, Any]) -> bool:
    """Whether config.json names a decoder of a family that is known."""
    return (config.get("architectures") or [""])[0] in FAMILIES


def _window(config: dict[str, Any], family: Family) -> int:
    """The sliding window that all layers share, 0 for none."""
    size = config.get("sliding_window") or 0
    unasked = family.window == WINDOW_IF_ASKED and not config.get("use_sliding_window")
    if family.window == NO_WINDOW or unasked or size >= config["max_position_embeddings"]:
        return 0
    kinds = set(config.get("layer_types") or ["sliding_attention"])
    if len(kinds) > 1:
        raise ModelError(
            f"layers mix {' and '.join(sorted(kinds))}; one kind for all layers is supported "
            f"(set sliding_window to null in config.json if contexts stay under {size} tokens)"
        )
    return size if kinds == {"sliding_attention"} else 0  # size is 0 where there is no window
