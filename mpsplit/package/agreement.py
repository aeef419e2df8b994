"""How far a package is from the model it was made of, as `mpsplit verify` measured it.

In: numbers. Out: what the manifest keeps of them.

Invariant: it names no place, time or host. What is not finite is null in JSON, and infinite here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import Field, asdict, dataclass, fields
from typing import Any

DIGITS = 6  # kept of a number


@dataclass(frozen=True)
class PartAgreement:
    """One part of the model: `part` is embedding, attention, mlp or head, and `layer` the decoder
    layer it is half of, or None.

    `max_abs` and `cosine` (mean over positions) compare what package and original have after it,
    with all that went before; `own` is what this part alone does wrong: given the package's own
    input, how far it is off, relative to what it should add (median over positions; of the
    embedding the largest).
    """

    layer: int | None
    part: str
    max_abs: float
    cosine: float
    own: float

    @property
    def where(self) -> str:
        return self.part if self.layer is None else f"layer {self.layer} ({self.part})"


@dataclass(frozen=True)
class Agreement:
    """`engine` ran the package, whose coarsest weights are `kind`, on prompts with the hash
    `prompts`.

    Over `positions`: the largest difference of a logit, mean and largest KL divergence (original
    against package, in nats), the share of equal best tokens. `greedy` is that share among the
    tokens that the package generates; `perplexity_ratio` is the package's perplexity of the
    prompts' own tokens over the original's.
    """

    engine: str
    kind: str
    prompts: str
    positions: int
    max_abs: float
    kl: float
    max_kl: float
    top1: float
    greedy: float
    perplexity_ratio: float
    parts: tuple[PartAgreement, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.kind} on {self.engine}: logits at most {self.max_abs:.2e} apart over {self.positions} positions, "
            f"KL {self.kl:.2e} (at most {self.max_kl:.2e}), top-1 {self.top1:.1%}, "
            f"perplexity {self.perplexity_ratio:.4g} times the original's, greedy tokens {self.greedy:.1%} equal"
        )

    def to_json(self) -> dict[str, Any]:
        data = _plain(asdict(self))
        if self.parts:
            data["parts"] = [_plain(asdict(part)) for part in self.parts]
        else:
            del data["parts"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Agreement:
        parts = tuple(PartAgreement(**_floats(part, PartAgreement)) for part in data.get("parts", ()))
        return cls(**(_floats(data, cls) | {"parts": parts}))


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {name: _short(value) if isinstance(value, float) else value for name, value in data.items()}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _floats(data: dict[str, Any], cls: type) -> dict[str, Any]:
    missing = {field.name for field in _floating(cls) if data[field.name] is None}
    return {name: math.inf if name in missing else value for name, value in data.items()}


def _floating(cls: type) -> Iterable[Field[Any]]:
    return (field for field in fields(cls) if field.type == "float")
