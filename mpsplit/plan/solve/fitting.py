"""Divides all parts of a stage at once where memory binds.

In: parts with their tables, free bytes. Out: steps of each member, or None.

It is a mixed integer program. Its variables are each member's steps of each part, in pieces along
which the member's tables are straight; and for each part its slowest member. A part of few steps
has a piece for each step, which is exact. A part of many has one piece: the chord of the seconds,
and for the bytes a line that no entry of the table lies above. Invariant: by its own lines a
division that comes out fits; shares.py looks at the tables again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mpsplit.plan.solve.stage_part import Floats, Ints, StagePart

FEW = 8  # steps of a part up to which each is a piece
# how near to the best the solver goes, and how long it looks, where a part has many steps
GAP, SECONDS = 1e-3, 0.3
MARGINS = (0.0, 1e-5)  # of the memory, left free: the solver takes its own tolerance for granted


@dataclass
class Program:
    """Least cost @ x, each row's sum within its limits, 0 <= x <= upper, some of x whole."""

    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def variable(self, cost: float = 0.0, upper: float = np.inf, whole: bool = False) -> int:
        self.cost.append(cost)
        self.upper.append(upper)
        self.whole.append(int(whole))
        return len(self.cost) - 1

    def at_most(self, row: dict[int, float], limit: float) -> None:
        self.rows.append((row, -np.inf, limit))

    def equal(self, row: dict[int, float], value: float) -> None:
        self.rows.append((row, value, value))

    def solve(self, exact: bool) -> Floats | None:
        """Its x.

        HiGHS's presolve was seen to cut off the best of a small program (scipy 1.17), so an exact
        answer goes without.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        matrix = np.zeros((len(self.rows), len(self.cost)))
        for i, (row, _, _) in enumerate(self.rows):
            matrix[i, list(row)] = list(row.values())
        limits = LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for _, _, high in self.rows])
        options = {"mip_rel_gap": 0.0, "presolve": False} if exact else {"mip_rel_gap": GAP, "time_limit": SECONDS}
        x: Floats | None = milp(
            self.cost, integrality=self.whole, bounds=Bounds(0, self.upper), constraints=limits, options=options
        ).x
        return x


def divide_together(
    parts: Sequence[StagePart], layers: int, free: Sequence[int], sizes: Sequence[int], fullest: bool
) -> list[Ints] | None:
    """Steps by part and member that take the least time and fit.

    With `fullest`, those whose fullest device is the least full.
    """
    for margin in MARGINS:
        counts = _solved(
            parts, layers, [f - margin * size for f, size in zip(free, sizes, strict=True)], sizes, fullest
        )
        if counts is None or fits(parts, counts, layers, free):
            return counts
    return None


def _solved(
    parts: Sequence[StagePart], layers: int, free: Sequence[float], sizes: Sequence[int], fullest: bool
) -> list[Ints] | None:
    program, unit = Program(), max(sizes)
    long = max(table[-1] for part in parts for table in part.seconds)  # keeps the numbers near 1
    weights = {"heads": layers, "mlp": layers, "head": 1}
    slowest = {part.name: program.variable(0.0 if fullest else weights[part.name]) for part in parts}
    fill = program.variable(float(fullest), 1.0)
    # what is free is what the fullest may take of the size
    taken = [{fill: -size / unit} for size in sizes]
    room = [(f - size) / unit for f, size in zip(free, sizes, strict=True)]
    chosen: list[list[list[int]]] = []
    for part in parts:
        chosen.append([])
        at = _points(part)
        stored = part.bytes(layers)
        rise = np.diff(stored[at]) / np.diff(at) / unit
        above = stored - np.interp(np.arange(part.count + 1), at, stored[at])
        for i, table in zip(part.members, part.seconds, strict=True):
            pieces = [program.variable(upper=width, whole=True) for width in np.diff(at)]
            for before, after in zip(pieces, pieces[1:], strict=False):
                program.at_most({after: 1.0, before: -1.0}, 0.0)
            slope = np.diff(table[at]) / np.diff(at) / long
            program.at_most(dict(zip(pieces, slope, strict=True)) | {slowest[part.name]: -1.0}, -table[at[0]] / long)
            taken[i] |= dict(zip(pieces, rise, strict=True))
            room[i] -= (stored[at[0]] + max(above[at[0] :])) / unit
            chosen[-1].append(pieces)
        program.equal({y: 1.0 for pieces in chosen[-1] for y in pieces}, part.count - at[0] * len(part.members))
    for row, limit in zip(taken, room, strict=True):
        program.at_most(row, limit)
    x = program.solve(exact=all(part.count <= FEW for part in parts))
    if x is None:
        return None
    return [
        np.array([part.least + round(sum(x[y] for y in pieces)) for pieces in members])
        for part, members in zip(parts, chosen, strict=True)
    ]


def _points(part: StagePart) -> Ints:
    """Steps between which the tables are taken as straight."""
    return np.arange(part.least, part.count + 1) if part.count <= FEW else np.array([part.least, part.count])


def fits(parts: Sequence[StagePart], counts: Sequence[Ints], layers: int, free: Sequence[int]) -> bool:
    used = used_bytes(parts, counts, layers, len(free))
    return bool((used <= np.array(free)).all())


def used_bytes(parts: Sequence[StagePart], counts: Sequence[Ints], layers: int, members: int) -> Ints:
    """What each member's steps add to its memory."""
    used = np.zeros(members, dtype=np.int64)
    for part, steps in zip(parts, counts, strict=True):
        used[list(part.members)] += part.bytes(layers)[steps]
    return used
