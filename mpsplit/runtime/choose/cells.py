"""A token out of many: sums by cell of logits tell where top-p and min-p cut and where the draw
falls, and only the logits of these two cells are asked for.

In: cells as the ranks count them (answers.py), a way to ask what is in one. Out: a token, the same
as from all logits, or Uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mpsplit.runtime.choose.answers import GRAIN, WIDE, cell_of
from mpsplit.runtime.choose.candidates import Answer
from mpsplit.runtime.choose.sampling import Sampling

EDGE = 1e-9  # of the sum of all weights
DEEPEST = 60.0  # below the best, in logits at temperature 1, where cells are told


class Uncertain(Exception):
    """Only all logits can tell."""


def sure_place(cumulative: np.ndarray, sought: float, before: float, sure: float) -> int:
    """Where the sum passes what is sought, far enough from where it begins and ends there; `before`
    is the sum of what comes before all of these."""
    at = int(cumulative.searchsorted(sought, side="right"))
    if at == len(cumulative) or cumulative[at] - sought < sure:
        raise Uncertain
    if sought - (cumulative[at - 1] if at else before) < sure and (at or before):
        raise Uncertain
    return at


@dataclass(frozen=True)
class Cells:
    """Of the whole vocabulary, from the cell `top` down: how many logits each rank has in each
    [ranks, cells], and the sum of all weights down to the end of each, with the weight of the upper
    end of `top` as 1."""

    top: int
    counts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, top: int, told: Sequence[np.ndarray] | np.ndarray) -> Cells:
        """Of what each rank told of the same cells."""
        together = (told[0][None] if len(told) == 1 else np.array(told)).reshape(len(told), 2, -1)
        sums = together[0, 1] if len(told) == 1 else together[:, 1].sum(axis=0)
        return cls(top, together[:, 0], sums.cumsum())

    @classmethod
    def of_wide(cls, answers: Sequence[Answer], temperature: float) -> Cells:
        """Of answers to WIDE, each of which begins with the cell of the rank's own largest."""
        size = WIDE - answers[0].wish.wanted
        if len(answers) == 1:
            message = answers[0].message
            return cls.of(cell_of(float(message[1]) / temperature), [message[2 : 2 + 2 * size]])
        tops = [cell_of(best / temperature) if (best := answer.message[1]) > -np.inf else None for answer in answers]
        top = max(own for own in tops if own is not None)
        moved = np.zeros((len(answers), 2, size))
        for to, answer, own in zip(moved, answers, tops, strict=True):
            if own is not None and (lower := top - own) < size:
                to[:, lower:] = answer.message[2 : 2 + 2 * size].reshape(2, size)[:, : size - lower]
                to[1] *= math.exp(-lower / GRAIN)
        return cls.of(top, moved)

    def __len__(self) -> int:
        return len(self.ends)

    def before(self, cell: int) -> float:
        return float(self.ends[cell - 1]) if cell else 0.0


class Inside(NamedTuple):
    """A cell in descending order: the logits, their ids, the model's own, the sums of all weights
    down to each."""

    logits: np.ndarray
    ids: np.ndarray
    own: np.ndarray
    sums: np.ndarray


class Drawn(NamedTuple):
    token: int
    own: float
    cut: int  # the cell in which what is left ends


def depth(sampling: Sampling, total: float, vocabulary: int) -> int:
    """How many cells may matter; `total` as CellDraw has it."""
    deep = -math.log(sampling.min_p) if sampling.min_p else math.inf
    if sampling.top_p < 1:
        # what lies deeper weighs less than top-p leaves out, even if it were all that there is
        deep = min(deep, math.log(vocabulary) - math.log1p(-sampling.top_p) - total)
    if not deep < DEEPEST:
        raise Uncertain
    return int(deep * GRAIN) + 3


@dataclass(frozen=True)
class CellDraw:
    """`best` is the largest logit, `total` the log of the sum of all weights with its weight as 1,
    of use where top-p is. `ask` gives rows of logits, ids and the model's own, by rank."""

    sampling: Sampling
    best: float
    total: float
    cells: Cells
    ask: Callable[[int, np.ndarray], list[np.ndarray]]

    @cached_property
    def weight(self) -> float:
        """Of all that there is, or in these cells."""
        if self.sampling.top_p == 1:
            return float(self.cells.ends[-1])
        return math.exp(self.total + self.best / self.sampling.temperature - (self.cells.top + 1) / GRAIN)

    @property
    def sure(self) -> float:
        return EDGE * self.weight

    @cached_property
    def lowest(self) -> int:
        """The cell where min-p cuts; it may lie below all these."""
        sampling = self.sampling
        if not sampling.min_p:
            return len(self.cells)
        return self.cells.top - cell_of(self.best / sampling.temperature + math.log(sampling.min_p))

    @property
    def deep_enough(self) -> bool:
        """Whether the cut is in these cells for sure."""
        top_p_is = self.sampling.top_p < 1 and self.sampling.top_p * self.weight < self.cells.ends[-1] - self.sure
        return top_p_is or self.lowest < len(self.cells)

    def draw(self, random: float) -> Drawn:
        kept, cut, target = math.inf, self.lowest, self.sampling.top_p * self.weight
        fewer = self.sampling.min_p and target > self.cells.ends[-1] + self.sure  # min-p leaves fewer
        if self.sampling.top_p < 1 and not fewer:
            cut, inside, at = self._find(target)
            kept = float(inside.sums[at])
        if self.lowest < len(self.cells) and self.lowest <= cut and (above := self._above()) < kept:
            kept, cut = above, self.lowest
        drawn = random * kept
        if kept - drawn < self.sure:
            raise Uncertain
        _, inside, at = self._find(drawn)
        return Drawn(int(inside.ids[at]), float(inside.own[at]), cut)

    def _find(self, sought: float) -> tuple[int, Inside, int]:
        """The cell in which the sum of weights passes what is sought, and where in it."""
        cell = int(self.cells.ends.searchsorted(sought, side="right"))
        if cell == len(self.cells):
            raise Uncertain
        inside = self._inside(cell)
        return cell, inside, sure_place(inside.sums, sought, self.cells.before(cell), self.sure)

    def _above(self) -> float:
        """The sum of the weights of what min-p leaves."""
        heat, log_p = self.sampling.temperature, math.log(self.sampling.min_p)
        inside = self._inside(self.lowest)
        scaled = (inside.logits - self.best) / heat
        near = (self.best / heat + log_p) * GRAIN % 1
        if (np.abs(scaled - log_p) < EDGE).any() or min(near, 1 - near) < EDGE * GRAIN * max(1, abs(self.best)):
            raise Uncertain
        fine = int((scaled >= log_p).sum())
        return float(inside.sums[fine - 1]) if fine else self.cells.before(self.lowest)

    def _inside(self, cell: int) -> Inside:
        told = self.ask(cell, self.cells.counts[:, cell])
        rows = told[0]
        if len(told) > 1:
            rows = np.concatenate(told, axis=1)
            rows = rows[:, np.lexsort((rows[1], -rows[0]))]
        weights = rows[0] / self.sampling.temperature
        weights -= (self.cells.top + 1) / GRAIN
        np.exp(weights, out=weights)
        return Inside(rows[0], rows[1], rows[-1], self.cells.before(cell) + weights.cumsum())
