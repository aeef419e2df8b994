"""Shards of any shape: the index lists of a linear's rows or columns.

In: what a user wishes, as PATTERN=rows:3 or a JSON file, and the linears that there are. Out: of
each linear that is divided, its lists as runs: first and last index of each run, one after another.

Invariant: the lists of a linear have each index once: nothing twice, nothing missing, none empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.errors import PlanError

ROWS, COLUMNS = "rows", "columns"
WISH = re.compile(rf"(?P<pattern>[^=]+)=(?P<along>{ROWS}|{COLUMNS}):(?P<count>[1-9][0-9]{{0,3}})", re.ASCII)
SPAN = re.compile(r"([0-9]{1,8})-([0-9]{1,8})", re.ASCII)
STEPS = (32, 16, 8, 4, 2, 1)  # equal parts end at multiples of the first that is fair: blocks of weights stay whole
MANY = 8  # steps a shard: one more or less is little
LARGEST = 1 << 24
Runs = tuple[int, ...]  # first, last, first, last, ...


@dataclass(frozen=True)
class Wish:
    """`said`: where the user said it. `lists`: of each shard, as the user wrote them; without them
    `count` equal parts."""

    said: str
    pattern: str
    along: str
    count: int
    lists: tuple[np.ndarray, ...] = ()

    def fits(self, module: str) -> bool:
        """The pattern names a module by its path, or by its last parts."""
        return fnmatchcase(module, self.pattern) or fnmatchcase(module, f"*.{self.pattern}")

    def runs(self, size: int, module: str) -> tuple[Runs, ...]:
        """Of a linear that has so many rows, or columns."""
        lists = self.lists or tuple(_equal(size, self.count))
        check_lists(lists, size, f"{self.said}: {module}", self.along)
        return tuple(map(runs_of, lists))


@dataclass(frozen=True)
class Cut:
    """How one linear is divided: along its rows or its columns, by these lists."""

    along: str
    shards: tuple[Runs, ...]
    said: str


def runs_of(indices: np.ndarray) -> Runs:
    """In rising order, whatever order they have."""
    rising = np.sort(indices)
    ends = np.flatnonzero(np.diff(rising) != 1)
    firsts, lasts = rising[np.r_[0, ends + 1]], rising[np.r_[ends, len(rising) - 1]]
    return tuple(int(end) for run in zip(firsts, lasts, strict=True) for end in run)


def indices_of(runs: Runs) -> np.ndarray:
    return np.concatenate([np.arange(first, last + 1) for first, last in zip(runs[::2], runs[1::2], strict=True)])


def size_of(runs: Runs) -> int:
    return sum(runs[1::2]) - sum(runs[::2]) + len(runs) // 2


def check_lists(lists: Sequence[np.ndarray], size: int, where: str, along: str) -> None:
    """Each index once."""
    every = np.concatenate(lists) if lists else np.empty(0, np.int64)
    if wrong := [number for number, indices in enumerate(lists) if not len(indices)]:
        raise PlanError(f"{where} has {size:,} {along}, and shard {wrong[0]} has none of them; give it some, or fewer"
                        " shards")  # fmt: skip
    outside = every[(every < 0) | (every >= size)]
    if len(outside):
        raise PlanError(f"{where} has {along} 0 to {size - 1}, and {len(outside):,} indices are none of them, such as"
                        f" {outside[0]}; leave them out")  # fmt: skip
    times = np.bincount(every, minlength=size)
    if (twice := np.flatnonzero(times > 1)).size:
        owners = [number for number, indices in enumerate(lists) if twice[0] in indices]
        raise PlanError(f"{where} has {len(twice):,} of its {size:,} {along} more than once, such as {twice[0]} in"
                        f" shard {' and '.join(map(str, owners))}; give each to one shard, once")  # fmt: skip
    if (missing := np.flatnonzero(times == 0)).size:
        raise PlanError(f"{where} has {len(missing):,} of its {size:,} {along} in no shard, such as {missing[0]}; give"
                        " each to a shard")  # fmt: skip


def _equal(size: int, count: int) -> list[np.ndarray]:
    fair = (step for step in STEPS if size % (step * count) == 0 or size // step >= MANY * count)
    step = next(fair, 1)
    ends = [min(round(size / step * part / count) * step, size) for part in range(count)] + [size]
    return [np.arange(first, last) for first, last in zip(ends, ends[1:], strict=False)]


def wishes_of(said: Sequence[str]) -> list[Wish]:
    """Of each --shards."""
    wishes: list[Wish] = []
    for text in said:
        if found := WISH.fullmatch(text):
            wishes.append(Wish(f"--shards {text}", found["pattern"], found["along"], int(found["count"])))
        elif text.endswith(".json"):
            wishes += _of_file(Path(text))
        else:
            raise PlanError(f"--shards {text} is not understood; give PATTERN={ROWS}:N, PATTERN={COLUMNS}:N, or a file"
                            " with lists, FILE.json")  # fmt: skip
    return wishes


def _of_file(path: Path) -> list[Wish]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise PlanError(f"--shards {path} cannot be read as JSON ({wrong}); name a file that can") from None
    if not isinstance(data, dict) or not data:
        raise PlanError(f'--shards {path} names no module; write {{"MODULE": {{"{ROWS}": [[0, 1], ["2-9"]]}}}}')
    return [_of_entry(f"--shards {path}", pattern, entry) for pattern, entry in data.items()]


def _of_entry(said: str, pattern: str, entry: Any) -> Wish:
    if not isinstance(entry, dict) or len(entry) != 1 or not {ROWS, COLUMNS} & set(entry):
        raise PlanError(f'{said}: {pattern} must have {{"{ROWS}": LISTS}} or {{"{COLUMNS}": LISTS}}, one of them')
    [(along, wanted)] = entry.items()
    if type(wanted) is int and 1 <= wanted < 10_000:
        return Wish(said, pattern, along, wanted)
    if not isinstance(wanted, list) or not wanted or not all(isinstance(indices, list) for indices in wanted):
        raise PlanError(f'{said}: {pattern}: {along} must be a number of shards, or a list of lists such as [[0, 1],'
                        ' ["2-9"]]')  # fmt: skip
    lists = tuple(_indices(f"{said}: {pattern}, shard {number}", wanted[number]) for number in range(len(wanted)))
    return Wish(said, pattern, along, len(lists), lists)


def _indices(where: str, items: list[Any]) -> np.ndarray:
    parts = []
    for item in items:
        span = SPAN.fullmatch(item) if isinstance(item, str) else None
        first, last = (int(span[1]), int(span[2])) if span else (item, item)
        if type(first) is not int or abs(first) > LARGEST or abs(last) > LARGEST or last < first:
            raise PlanError(f'{where} has {str(item)[:40]!r}, which is no index and no run such as "2-9"; write whole'
                            " numbers")  # fmt: skip
        parts.append(np.arange(first, last + 1))
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def cuts_of(wishes: Sequence[Wish], linears: Mapping[str, tuple[int, int]], modules: Collection[str]) -> dict[str, Cut]:
    """`linears`: rows and columns of each that can be divided; `modules`: all that compute."""
    cuts: dict[str, Cut] = {}
    for wish in wishes:
        hits = [module for module in linears if wish.fits(module)]
        if not hits:
            raise PlanError(_no_hit(wish, linears, modules))
        for module in hits:
            if module in cuts:
                raise PlanError(f"{module} is divided twice, by {cuts[module].said} and {wish.said}; leave one out")
            size = linears[module][wish.along == COLUMNS]
            cuts[module] = Cut(wish.along, wish.runs(size, module), wish.said)
    return cuts


def _no_hit(wish: Wish, linears: Collection[str], modules: Collection[str]) -> str:
    others = [module for module in modules if wish.fits(module)]
    named = f"{wish.said}: " if wish.pattern in wish.said else f"{wish.said}: {wish.pattern}: "
    problem = (
        f"{others[0]} is no linear and no 1x1 convolution"
        if others
        else f"none of {len(modules)} modules has such a path"
    )
    known = ", ".join(linears)
    remedy = f"name some of {len(linears)} that can be divided: {known[:300]}" if known else "nothing can be divided"
    return f"{named}{problem}; {remedy}"


def members(lead: int, cut: Cut, ranks: int, module: str) -> tuple[int, ...]:
    """Whose each shard is: the rank that runs the stage and those after it in the ring, in rising
    order."""
    if len(cut.shards) > ranks:
        raise PlanError(f"{cut.said}: {module} has {len(cut.shards)} shards, there are {ranks} ranks; use `mpirun -np"
                        f" {len(cut.shards)}`, or {ranks} shards")  # fmt: skip
    return tuple(sorted((lead + after) % ranks for after in range(len(cut.shards))))
