"""A part of a stage that several ranks compute together: a linear, or two with what lies between.

In: index lists, a value. Out: what each shard is given, and the whole of what the shards gave.

Rows: every shard has all inputs and some outputs, which are put together. Columns: each has some
inputs, and the outputs are added, in the order of the shards. A pair is rows, then columns by the
same lists: what lies between stays where it is.

Invariant: a shard's outputs have the same bits as those of the whole. ncnn computes the rows of a
matrix in groups, and those that are left over in another order: so a shard's rows stand at places
that are alike (`laid_out`), with rows of zeros between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from mpsplit.errors import PackageError, PlanError
from mpsplit.package.json_fields import many, one_of, record, whole
from mpsplit.package.manifest_fields import BYTES, RANKS, TEXT
from mpsplit.package.stages.growing_shapes import LARGEST, Shape, numbers
from mpsplit.package.stored.float_weights import FLOAT_BYTES
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, Runs, check_lists, indices_of, size_of

PAIR = "pair"
GROUP = 16  # rows that ncnn computes together, at most
ZEROS = -1  # in the place of a row


@dataclass(frozen=True)
class ShardedPart:
    """`modules`: the linears in it. It `takes` one value and `gives` one, cut along `axis`.
    `ranks`: of each shard; `bytes`: of its weights as float32; `whole`: of each, 1 where its graph
    keeps the axis of the batch."""

    modules: tuple[str, ...]
    cut: str
    takes: str
    gives: str
    axis: int
    ranks: tuple[int, ...]
    shards: tuple[Runs, ...]
    bytes: tuple[int, ...]
    flops: int
    whole: tuple[int, ...] = ()

    def __str__(self) -> str:
        sizes = " + ".join(f"{size_of(runs):,}" for runs in self.shards)
        how = f"{ROWS}, then {COLUMNS}" if self.cut == PAIR else self.cut
        return f"{' -> '.join(self.modules)}: {sizes} {how} on ranks {', '.join(map(str, self.ranks))}"

    @cached_property
    def size(self) -> int:
        return sum(map(size_of, self.shards))

    def taken(self, shard: int, shape: Shape) -> Shape:
        """Of what a shard is given; `shape`: of the value."""
        return _cut(shape, self.axis, size_of(self.shards[shard])) if self.cut == COLUMNS else shape

    def given(self, shard: int, shape: Shape) -> Shape:
        """Of what a shard gives."""
        return _cut(shape, self.axis, size_of(self.shards[shard])) if self.cut == ROWS else shape

    def computed(self, shard: int, shape: Shape) -> Shape:
        """Of what a shard's graph computes: rows of zeros too."""
        return _cut(shape, self.axis, len(self.places[shard])) if self.cut == ROWS else shape

    @cached_property
    def places(self) -> tuple[np.ndarray, ...]:
        """Of each shard: which row stands where."""
        return tuple(laid_out(indices_of(runs), self.size) for runs in self.shards)

    @cached_property
    def _indices(self) -> tuple[Any, ...]:
        return tuple(self._along(_selection(indices_of(runs))) for runs in self.shards)

    @cached_property
    def _real(self) -> tuple[Any, ...]:
        return tuple(self._along(_selection(np.flatnonzero(places != ZEROS))) for places in self.places)

    def _along(self, selection: Any) -> tuple[Any, ...]:
        return (*[slice(None)] * self.axis, selection)

    def for_shard(self, shard: int, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[self._indices[shard]]) if self.cut == COLUMNS else x

    def without_zeros(self, shard: int, y: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(y[self._real[shard]]) if self.cut == ROWS else y

    def together(self, pieces: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """`pieces`: what each shard gave; `shape`: of the whole."""
        if self.cut == ROWS:
            out = np.empty(shape, np.float32)
            for indices, piece in zip(self._indices, pieces, strict=True):
                out[indices] = piece
            return out
        total = pieces[0].copy()
        for piece in pieces[1:]:
            total += piece
        return total

    def traffic(self, shapes: Mapping[str, Shape], lead: int, length: int) -> int:
        """Bytes of an input that pass between the stage's rank and the others."""
        passed = self.passed(shapes, length)
        return sum(size for size, rank in zip(passed, self.ranks, strict=True) if rank != lead)

    def passed(self, shapes: Mapping[str, Shape], length: int) -> tuple[int, ...]:
        """Bytes of an input that each shard is given, and gives."""
        x, y = shapes[self.takes], shapes[self.gives]
        return tuple(
            FLOAT_BYTES * (prod(numbers(self.taken(shard, x), length)) + prod(numbers(self.given(shard, y), length)))
            for shard in range(len(self.shards))
        )

    def check(self, stage: str) -> ShardedPart:
        """Itself, when its lists have each index once and its ranks differ."""
        where = f"stage {stage}: {', '.join(self.modules)}"
        several = len(self.shards), len(set(self.ranks)), len(self.bytes), len(self.whole)
        if not self.shards or len(set(several)) > 1:
            raise PackageError(f"{where} has {len(self.shards)} shards on ranks {list(self.ranks)}")
        for runs in self.shards:
            if not runs or len(runs) % 2 or any(a > b for a, b in zip(runs[::2], runs[1::2], strict=True)):
                raise PackageError(f"{where} has a shard whose runs do not end")
        if self.size > LARGEST:
            raise PackageError(f"{where} has {self.size:,} indices")
        try:
            check_lists([indices_of(runs) for runs in self.shards], self.size, where, self.cut)
        except PlanError as wrong:
            raise PackageError(str(wrong)) from None
        return self

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ShardedPart:
        lists: dict[str, Any] = {name: tuple(data[name]) for name in ("modules", "ranks", "bytes", "whole")}
        plain = {name: data[name] for name in ("cut", "takes", "gives", "axis", "flops")}
        return cls(**plain, **lists, shards=tuple(map(tuple, data["shards"])))


def laid_out(indices: np.ndarray, size: int) -> np.ndarray:
    """Rows of a matrix that has `size` of them, as they stand in a shard: groups, the last one
    filled up with zeros, then those that are left over, each at its own place."""
    left_over = size - size % GROUP
    grouped, rest = indices[indices < left_over], indices[indices >= left_over]
    filled = np.full(len(grouped) + -len(grouped) % GROUP + size % GROUP, ZEROS)
    filled[: len(grouped)] = grouped
    filled[len(filled) - size + rest] = rest
    return filled


def _cut(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _selection(indices: np.ndarray) -> slice | np.ndarray:
    """One run is a slice, which copies faster."""
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == len(indices) else indices


RUNS = many(whole(0, LARGEST), 1 << 20)
SHARDED_PART = record(
    {
        "modules": many(TEXT, 64),
        "cut": one_of((ROWS, COLUMNS, PAIR)),
        "takes": TEXT,
        "gives": TEXT,
        "axis": whole(0, 7),
        "ranks": many(whole(0, RANKS), RANKS),
        "shards": many(RUNS, RANKS),
        "bytes": many(whole(0, BYTES), RANKS),
        "flops": whole(0, BYTES),
        "whole": many(whole(0, 1), RANKS),
    }
)
