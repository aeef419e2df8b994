"""What an Agreement must hold before `mpsplit verify` says that a package is its model.

In: measured numbers. Out: limits, and what does not hold, as text.

The limits come from the package's own kinds of weights on the model at hand: plain rounding was
measured beside it, part by part (check/rounded_model.py). A better way of rounding stays below
that, damage does not. Invariant: MARGINS is all that was chosen, and says why.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from mpsplit.check.layer_cost import LayerCost
from mpsplit.check.weight_bounds import BOUNDS
from mpsplit.errors import RunError
from mpsplit.package.agreement import Agreement, Distance, PartAgreement
from mpsplit.package.manifest import MANIFEST, Manifest
from mpsplit.package.stored.quantisation import FLOAT
from mpsplit.progress import console


@dataclass(frozen=True)
class Margin:
    """A limit is `times` what plain rounding does, and `plus`; of shares and perplexities `errors`
    are standard errors that come on top."""

    times: float
    plus: float
    errors: float
    unit: str
    why: str


# By kind, the KL of a sound package over that of plain rounding, at most. Measured with `verify`:
# of kinds that round, tiny-vicuna over one rank with either way of scales, and what docs/right.md
# has of SmolLM2; GPTQ and AWQ lie below, down to 0.2. Of kinds that a GGUF file's blocks are kept
# as, small random models in blocks of any bits, where inputs alone are rounded
# (tests/check/test_kept_blocks.py).
MOST_KL = {
    "f32": 1.0, "bf16": 1.0, "q8": 1.06, "q6": 0.96, "q4": 1.01, "i4": 0.98, "q3": 1.05, "q2": 1.0,
    "m5": 1.0, "m4": 1.0, "k6": 1.0, "k5": 1.0, "k4": 0.98, "x4": 0.98, "k3": 0.99, "k2": 0.98,
}  # fmt: skip
MARGINS = {
    "kl": Margin(2.0, 1e-6, 0, "nats", "damage shows three times of it and more; 1e-8 in float32. By kind: MOST_KL"),
    "unequal": Margin(1.0, 0.01, 4, "share of the best tokens", "two roundings differ by chance at positions that tie"),
    "perplexity": Margin(1.0, 1e-3, 6, "logarithm", "a sum over few tokens: a sound q8 was off by 4.3 of its errors"),
    "part": Margin(1.5, 1e-3, 0, "of what the part adds", "0.7 to 1.2 times plain rounding; damage 2 times and more"),
    "logits": Margin(1.0, 1e-3, 0, "logit", "in float32 alone: sums in another order"),
}


@dataclass(frozen=True)
class Limits:
    """None is no limit."""

    tolerance: float | None
    max_kl: float
    min_top1: float
    min_perplexity_ratio: float
    max_perplexity_ratio: float

    @classmethod
    def of(cls, agreement: Agreement) -> Limits:
        """What rounding to the package's kinds of weights allows on these tokens."""
        plain = agreement.rounding or EXACT
        kl, unequal, perplexity = (MARGINS[name] for name in ("kl", "unequal", "perplexity"))
        missed = 1 - plain.top1
        by_chance = math.sqrt(missed * plain.top1 / max(1, agreement.positions))
        surplus, chance = math.log(plain.perplexity_ratio), perplexity.errors * plain.uncertain + perplexity.plus
        return cls(
            MARGINS["logits"].plus if is_exact(agreement) else None,
            kl.times * MOST_KL[agreement.kind] * plain.kl + kl.plus,
            max(0.0, 1 - unequal.times * missed - unequal.errors * by_chance - unequal.plus),
            math.exp(min(0.0, perplexity.times * surplus) - chance),
            math.exp(max(0.0, perplexity.times * surplus) + chance),
        )

    def with_wishes(self, **given: float | None) -> Limits:
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def own_limit(part: PartAgreement) -> float:
    return MARGINS["part"].times * part.rounding + MARGINS["part"].plus


def first_parting(parts: Sequence[PartAgreement]) -> PartAgreement | None:
    """The first part that does by itself more wrong than it may."""
    return next((part for part in parts if not part.own <= own_limit(part)), None)


def farthest_part(parts: Sequence[PartAgreement]) -> PartAgreement | None:
    """The one that is nearest to its limit, or farthest beyond."""
    return max(parts, key=lambda part: part.own / own_limit(part), default=None)


EXACT = Distance(kl=0.0, top1=1.0, perplexity_ratio=1.0)
WISHES = tuple(field.name for field in fields(Limits))


def check_wishes(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not 0 <= value < math.inf:
            raise RunError(f"--{name.replace('_', '-')} {value} is out of range; it must be 0 or more")


def failures(agreement: Agreement, limits: Limits, wrong_weights: tuple[str, ...] = ()) -> list[str]:
    """One text for each limit that does not hold; what is not finite holds none."""
    bounds = (
        ("logits at most {0:.2e} apart, --tolerance allows {1:g} ({2})", agreement.max_abs, limits.tolerance),
        ("KL {0:.2e}, --max-kl allows {1:.3g} ({2})", agreement.kl, limits.max_kl),
        (
            "perplexity {0:.4g} times the original's, --max-perplexity-ratio allows {1:.4g} ({2})",
            agreement.perplexity_ratio,
            limits.max_perplexity_ratio,
        ),
    )
    failed = list(wrong_weights) + [
        text.format(value, limit, _times(value, limit))
        for text, value, limit in bounds
        if limit is not None and not value <= limit
    ]
    if agreement.perplexity_ratio < limits.min_perplexity_ratio:
        failed.append(
            f"perplexity {agreement.perplexity_ratio:.4g} times the original's, --min-perplexity-ratio asks for"
            f" {limits.min_perplexity_ratio:.4g}: rounding makes no model better; is it made of another one?"
        )
    if not agreement.top1 >= limits.min_top1:
        missing = 100 * (limits.min_top1 - agreement.top1)
        failed.append(
            f"top-1 {agreement.top1:.1%}, --min-top1 asks for {limits.min_top1:.1%} ({missing:.1f} points are missing)"
        )
    if part := first_parting(agreement.parts):
        failed.append(
            f"first parts at {part.where}, which by itself is {part.own:.2g} off, {own_limit(part):.2g} is allowed"
            f" (plain rounding: {part.rounding:.2g}){'' if wrong_weights else OF_THE_GRAPH}"
        )
    return failed


OF_THE_GRAPH = "; the weights are the model's, so what is computed with them is not: partition and convert again"


def _times(value: float, limit: float) -> str:
    return f"{value / limit:.3g} times as much" if limit else "nothing"


def store(package: Path, agreement: Agreement) -> None:
    try:
        replace(Manifest.load(package), verified=agreement).save(package)
    except OSError as wrong:  # it was measured all the same
        why = f"{package / MANIFEST} cannot be written ({wrong.strerror})"
        print(f"mpsplit: {why}: what was found is told, not kept", file=sys.stderr)


def show(agreement: Agreement, failed: list[str], cost: LayerCost, table: bool) -> None:
    """`table`: every part, also where all is well."""
    print(f"DIFFERENT: {'; '.join(failed)}\n{agreement}" if failed else f"{verdict(agreement)}: {agreement}")
    for of_kind in agreement.weights:
        bound = BOUNDS[of_kind.kind]
        allowed = f"{bound.most:g} allowed" if bound.most else "none allowed"
        print(f"weights: {of_kind.count} {of_kind.kind}, at most {of_kind.worst:.2g} {bound.unit} off, {allowed}")
    if plain := None if is_exact(agreement) else agreement.rounding:
        print(
            f"plain rounding to these kinds: KL {plain.kl:.2e}, top-1 {plain.top1:.1%},"
            f" perplexity {plain.perplexity_ratio:.4g} times"
        )
    if part := farthest_part(agreement.parts):
        print(f"layers: {part.where} is nearest to its limit, {part.own:.2g} of {own_limit(part):.2g}")
    print(cost)
    if agreement.parts and (table or failed):
        show_parts(agreement.parts)


def is_exact(agreement: Agreement) -> bool:
    """Whether nothing of the package was rounded."""
    return agreement.kind == FLOAT.kind and not (agreement.rounding and agreement.rounding.kl)


def verdict(agreement: Agreement) -> str:
    return "the same" if is_exact(agreement) else f"within the limits of {agreement.kind}"


def show_parts(parts: tuple[PartAgreement, ...]) -> None:
    from rich.table import Table

    table = Table("part", "max-abs", "cosine", "off by itself", "allowed", box=None, header_style="")
    for column in table.columns[1:]:
        column.justify = "right"
    parted = first_parting(parts)
    for part in parts:
        numbers = f"{part.max_abs:.2e}", f"{part.cosine:.6f}", f"{part.own:.2e}", f"{own_limit(part):.2e}"
        table.add_row(part.where, *numbers, style="bold red" if part is parted else None)
    console().print(table)


def as_json(agreement: Agreement, limits: Limits, failed: list[str], cost: LayerCost) -> dict:
    """For --json."""
    parted = first_parting(agreement.parts)
    return agreement.to_json() | {
        "same": not failed,
        "failed": failed,
        "limits": asdict(limits),
        "first_parts_at": parted.where if parted else None,
        "layers": asdict(cost),
    }
