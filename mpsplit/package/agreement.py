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
    embedding the largest). `rounding` is the same of plain rounding (check/rounded_model.py).
    """

    layer: int | None
    part: str
    max_abs: float
    cosine: float
    own: float
    rounding: float = 0.0

    @property
    def where(self) -> str:
        return self.part if self.layer is None else f"layer {self.layer} ({self.part})"


@dataclass(frozen=True)
class WeightsAgreement:
    """How far `count` weights of a kind (check/weight_bounds.py) are off the checkpoint's, at their
    worst place."""

    kind: str
    count: int
    worst: float


@dataclass(frozen=True)
class Distance:
    """From the original, over positions: mean KL divergence (original against the other, in nats),
    the share of equal best tokens, and the perplexity of the prompts' own tokens over the
    original's, whose logarithm has a standard error of `uncertain`."""

    kl: float
    top1: float
    perplexity_ratio: float
    uncertain: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """`engine` ran the package, whose coarsest weights are `kind`, on prompts with the hash
    `prompts`.

    Over `positions`: the largest difference of a logit, mean and largest KL divergence (original
    against package, in nats), the share of equal best tokens. `greedy` is that share among the
    tokens that the package generates; `perplexity_ratio` is the package's perplexity of the
    prompts' own tokens over the original's. `rounding` is how far plain rounding to the package's
    kinds of weights is from the original on the same tokens; None of an older mpsplit.
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
    rounding: Distance | None = None
    weights: tuple[WeightsAgreement, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.kind} on {self.engine}: logits at most {self.max_abs:.2e} apart over {self.positions} positions, "
            f"KL {self.kl:.2e} (at most {self.max_kl:.2e}), top-1 {self.top1:.1%}, "
            f"perplexity {self.perplexity_ratio:.4g} times the original's, greedy tokens {self.greedy:.1%} equal"
        )

    def to_json(self) -> dict[str, Any]:
        data = plain(self)
        for name in ("parts", "weights"):
            data[name] = [plain(item) for item in getattr(self, name)]
        data["rounding"] = self.rounding and plain(self.rounding)
        return {name: value for name, value in data.items() if name not in LATER or value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Agreement:
        parts = tuple(PartAgreement(**floats(part, PartAgreement)) for part in data.get("parts", ()))
        weights = tuple(WeightsAgreement(**floats(of_kind, WeightsAgreement)) for of_kind in data.get("weights", ()))
        rounding = Distance(**floats(data["rounding"], Distance)) if "rounding" in data else None
        return cls(**(floats(data, cls) | {"parts": parts, "weights": weights, "rounding": rounding}))


LATER = ("parts", "rounding", "weights")  # fields that are not written where they are empty


def plain(value: Any) -> dict[str, Any]:
    """JSON of a dataclass of numbers and words."""
    return {name: _short(item) if isinstance(item, float) else item for name, item in asdict(value).items()}


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def floats(data: dict[str, Any], cls: type) -> dict[str, Any]:
    """The same fields, with what was not finite."""
    missing = {field.name for field in _floating(cls) if data.get(field.name, 0.0) is None}
    return {name: math.inf if name in missing else value for name, value in data.items()}


def _floating(cls: type) -> Iterable[Field[Any]]:
    return (field for field in fields(cls) if field.type == "float")
