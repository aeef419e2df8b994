"""What an Agreement must hold before `mpsplit verify` calls two models the same.

In: measured numbers, limits. Out: what failed, as text.

Invariant: quantised weights cannot give the original's logits, so each kind has limits of its own.
They are a few times what a sound package of a small model shows, far below what a damaged one does.
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mpsplit.check.parting import first_parting
from mpsplit.errors import RunError
from mpsplit.package.agreement import Agreement, PartAgreement
from mpsplit.package.manifest import MANIFEST, Manifest
from mpsplit.progress import console


@dataclass(frozen=True)
class Limits:
    """None is no limit. `own` is how wrong a part of a layer may be by itself (PartAgreement),
    for --layers."""

    tolerance: float | None
    max_kl: float
    min_top1: float
    max_perplexity_ratio: float
    own: float

    def with_wishes(self, **given: float | None) -> Limits:
        for name, value in given.items():
            if value is not None and not 0 <= value < math.inf:
                raise RunError(f"--{name.replace('_', '-')} {value} is out of range; it must be 0 or more")
        return replace(self, **{name: value for name, value in given.items() if value is not None})


# the coarsest kind of a package -> what it must hold; logits of 1e-3 apart may still be a tie for
# the best token
LIMITS = {
    "f32": Limits(1e-3, 1e-6, 0.99, 1.001, own=1e-3),
    "bf16": Limits(None, 0.01, 0.90, 1.05, own=0.01),
    "q8": Limits(None, 0.01, 0.90, 1.05, own=0.03),
    "q6": Limits(None, 0.05, 0.70, 1.15, own=0.1),
    "q4": Limits(None, 0.5, 0.30, 2.0, own=0.3),
}


def failures(agreement: Agreement, limits: Limits) -> list[str]:
    """One text for each limit that does not hold; what is not finite holds none."""
    bounds = (
        ("logits at most {0:.2e} apart, --tolerance allows {1:g} ({2})", agreement.max_abs, limits.tolerance),
        ("KL {0:.2e}, --max-kl allows {1:g} ({2})", agreement.kl, limits.max_kl),
        (
            "perplexity {0:.4g} times the original's, --max-perplexity-ratio allows {1:g} ({2})",
            agreement.perplexity_ratio,
            limits.max_perplexity_ratio,
        ),
    )
    failed = [
        text.format(value, limit, _times(value, limit))
        for text, value, limit in bounds
        if limit is not None and not value <= limit
    ]
    if not agreement.top1 >= limits.min_top1:
        missing = 100 * (limits.min_top1 - agreement.top1)
        failed.append(
            f"top-1 {agreement.top1:.1%}, --min-top1 asks for {limits.min_top1:.1%} ({missing:.1f} points are missing)"
        )
    if part := first_parting(agreement.parts, limits.own):
        failed.append(
            f"first parts at {part.where}, which by itself is {part.own:.2g} off,"
            f" {agreement.kind} allows {limits.own:g}"
        )
    return failed


def _times(value: float, limit: float) -> str:
    return f"{value / limit:.3g} times as much" if limit else "nothing"


def store(package: Path, agreement: Agreement) -> None:
    try:
        replace(Manifest.load(package), verified=agreement).save(package)
    except OSError as wrong:  # it was measured all the same
        why = f"{package / MANIFEST} cannot be written ({wrong.strerror})"
        print(f"mpsplit: {why}: what was found is told, not kept", file=sys.stderr)


def show(agreement: Agreement, limits: Limits, failed: list[str]) -> None:
    if agreement.parts:
        show_parts(agreement.parts, limits.own)
    print(("DIFFERENT: " + "; ".join(failed)) if failed else f"the same: {agreement}")
    if failed:
        print(agreement)


def show_parts(parts: tuple[PartAgreement, ...], limit: float) -> None:
    from rich.table import Table

    table = Table("part", "max-abs", "cosine", "off by itself", box=None, header_style="")
    for column in table.columns[1:]:
        column.justify = "right"
    parted = first_parting(parts, limit)
    for part in parts:
        mark = "bold red" if part is parted else None
        table.add_row(part.where, f"{part.max_abs:.2e}", f"{part.cosine:.6f}", f"{part.own:.2e}", style=mark)
    console().print(table)


def as_json(agreement: Agreement, limits: Limits, failed: list[str]) -> dict:
    """For --json."""
    parted = first_parting(agreement.parts, limits.own)
    return agreement.to_json() | {
        "same": not failed,
        "failed": failed,
        "limits": asdict(limits),
        "first_parts_at": parted.where if parted else None,
    }
