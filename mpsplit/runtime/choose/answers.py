"""What a rank answers about its slice of the logits.

In: the slice, and what rank 0 wants to know of it. Out: one array of float64. Invariant: C++
(extensions/choose) and numpy give the same answers; sums may differ in their last bits.

A request changes the model's own logits first: by its tilt (tilt.py) and by the mask of its
grammar. The ranks keep both, by slot, and rank 0 tells what is new. What is `wanted` is a number of
the likeliest or one of the codes below. `likely` is how many of the model's own likeliest are to be
told beside it, -1 for none; then each logit that is told has the model's own beside it.

    n         [rest, n logits in descending order, their ids (, n own)]; of fewer rows all. `rest`
              is the log of the summed exp of the slice at `temperature`, NaN at temperature 0
    BLOCKS    [top, sums by block of BLOCK rows of exp(logit / temperature - top)]
    CELLS     [`count` counts, as many sums of exp(logit / temperature - (start + 1) / GRAIN)] by
              cell: a logit lies in cell start - floor(logit / temperature * GRAIN)
    CELL      [the logits in cell `count` of these in descending order, their ids (, own)]; CELLS or
              WIDE came before
    WIDE - n  [rest, the largest logit, CELLS of n cells from that one's on]
    SPAN      [the logits of `count` rows from `start` on, as far as they are here (, own)]
    (and with `likely`, after n, BLOCKS and WIDE: the log of the summed exp of the model's own, its
    likeliest logits, their ids)

The only rank with rows of the head needs no answers: it draws. Then the message is [the token, the
model's own logit of it, how many cells to ask for next time (, as above)], or empty where only all
logits in one order can tell.

Of equal logits the lower id comes first. A logit that the mask forbids is -inf; the id beside it
means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mpsplit.native import cpp

NOTHING, ALL, BLOCKS, CELLS, CELL, SPAN, WIDE = 0, -1, -2, -3, -4, -5, -6
BY_TILT, BY_MASK = 1, 2  # what changes the logits first
BLOCK, GRAIN = 1024, 32
MOST_CELLS = 4096  # that one answer counts


class Wish(NamedTuple):
    """What rank 0 wants to know. `start` and `count` are of CELLS, CELL and SPAN."""

    wanted: int = NOTHING
    likely: int = -1
    changed: int = 0
    temperature: float = 0.0
    start: int = 0
    count: int = 0  # type: ignore[assignment]  # a tuple has a method of this name


class Draw(NamedTuple):
    """How to draw, as Sampling has it, and a number from 0 to below 1."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    min_keep: int
    random: float


class Answers(Protocol):
    def tilt(self, slot: int, fresh: bool, changes: np.ndarray) -> None:
        """Changes as tilt.py tells them; the first of a request forget what was there."""

    def mask(self, slot: int, bits: np.ndarray) -> None:
        """As bits_of."""

    def answer(self, logits: np.ndarray, slot: int, wish: Wish) -> np.ndarray: ...

    def draws(self, questions: Sequence[tuple[np.ndarray, int, Wish, Draw]]) -> list[np.ndarray]:
        """Of logits of different slots."""


def answers_of(first_row: int, threads: int = 1) -> Answers:
    """Of a rank whose rows of the head begin there; so many threads draw."""
    module = cpp.load("_choose")
    return module.Answers(first_row, threads) if module else NumpyAnswers(first_row)


class NumpyAnswers:
    """Where the C++ was not built."""

    def __init__(self, first_row: int):
        self.first = first_row
        self.penalties: dict[int, tuple[float, ...]] = {}
        self.tilts: dict[int, dict[int, tuple[int, float]]] = {}
        self.masks: dict[int, np.ndarray] = {}

    def tilt(self, slot: int, fresh: bool, changes: np.ndarray) -> None:
        tilt = self.tilts[slot] = {} if fresh else self.tilts[slot]
        self.penalties[slot] = tuple(changes[:3].view(np.float64).tolist())
        rows = changes[3:].reshape(-1, 3)
        for token, count, bias in zip(rows[:, 0].tolist(), rows[:, 1].tolist(), floats(rows[:, 2]), strict=True):
            tilt[token] = count, bias
            if not count and not bias:
                del tilt[token]

    def mask(self, slot: int, bits: np.ndarray) -> None:
        self.masks[slot] = allowed_of(bits)

    def answer(self, logits: np.ndarray, slot: int, wish: Wish) -> np.ndarray:
        wanted, likely, changed, temperature, start, count = wish
        seen = self._changed(logits.astype(np.float64), slot, changed)
        own = logits.astype(np.float64)
        if wanted == CELLS:
            return cells_of(seen / temperature, start, count)
        if wanted == CELL:
            at = np.flatnonzero(np.floor(seen / temperature * GRAIN) == start - count)
            at = at[likeliest(seen[at], len(at))]
            return np.concatenate([seen[at], at + self.first, *([own[at]] if likely >= 0 else [])])
        if wanted == SPAN:
            rows = slice(*np.clip([start - self.first, start - self.first + count], 0, len(seen)))
            return np.concatenate([seen[rows], *([own[rows]] if likely >= 0 else [])])
        if wanted == BLOCKS:
            top = seen.max() / temperature
            with np.errstate(invalid="ignore"):  # where the mask leaves nothing
                weights = np.nan_to_num(np.exp(seen / temperature - top))
            message: list[Any] = [[top], np.add.reduceat(weights, np.arange(0, len(seen), BLOCK))]
        elif wanted < WIDE:
            best = seen.max()
            top = cell_of(best / temperature) if best > -np.inf else 0
            message = [[log_sum_exp(seen / temperature), best], cells_of(seen / temperature, top, WIDE - wanted)]
        else:
            order = likeliest(seen, min(wanted, len(seen)))
            rest = log_sum_exp(seen / temperature) if temperature else np.nan
            message = [[rest], seen[order], order + self.first, *([own[order]] if likely >= 0 else [])]
        if likely >= 0:
            order = likeliest(own, min(likely, len(own)))
            message += [[log_sum_exp(own)], own[order], order + self.first]
        return np.concatenate(message)

    def draws(self, questions: Sequence[tuple[np.ndarray, int, Wish, Draw]]) -> list[np.ndarray]:
        """Always left to choosing.py."""
        return [np.empty(0)] * len(questions)

    def _changed(self, logits: np.ndarray, slot: int, changed: int) -> np.ndarray:
        if changed & BY_TILT and (tilt := self.tilts[slot]):
            tokens = np.fromiter(tilt, np.int64, len(tilt)) - self.first
            counts, biases = np.array(list(tilt.values())).T
            here = (tokens >= 0) & (tokens < len(logits))
            at = tokens[here]
            logits[at] = tilted(logits[at], counts[here], biases[here], *self.penalties[slot])
        if changed & BY_MASK:
            fine = np.zeros(len(logits), bool)
            known = self.masks[slot][self.first : self.first + len(logits)]
            fine[: len(known)] = known
            logits[~fine] = -np.inf
        return logits


def cell_of(scaled: float) -> int:
    """The number of the cell in which a logit over the temperature lies; 0 where it is too far for
    numbers to tell (answers.cpp)."""
    cell = scaled * GRAIN
    return math.floor(cell) if abs(cell) < 1e15 else 0


def cells_of(scaled: np.ndarray, top: int, count: int) -> np.ndarray:
    cells = top - np.floor(scaled * GRAIN)
    near = (cells >= 0) & (cells < count)
    at, weights = cells[near].astype(int), np.exp(scaled[near] - (top + 1) / GRAIN)
    return np.concatenate([np.bincount(at, minlength=count), np.bincount(at, weights, count)])


def tilted(
    logits: np.ndarray, counts: np.ndarray, biases: np.ndarray, repetition: float, presence: float, frequency: float
) -> np.ndarray:
    """The logits of tokens that occur so often, with these biases, float64."""
    old = logits + biases
    new = np.where(old < 0, old * repetition, old / repetition) - (presence + frequency * counts)
    return np.where(counts > 0, new, old)


def likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest are, in descending order."""
    if count == 1:
        return np.array([logits.argmax()])
    return largest(np.arange(len(logits)), logits, count)[:count] if count else np.empty(0, np.int64)


def largest(ids: np.ndarray, logits: np.ndarray, wanted: int) -> np.ndarray:
    """Where the `wanted` largest are, and ties with the last of them, in descending order; of equal
    ones the lower id comes first."""
    if wanted >= len(logits):
        return np.lexsort((ids, -logits))
    order = np.flatnonzero(logits >= np.partition(logits, len(logits) - wanted)[len(logits) - wanted])
    return order[np.lexsort((ids[order], -logits[order]))]


def log_sum_exp(x: np.ndarray) -> float:
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum())) if top > -np.inf else -np.inf


def bits_of(allowed: np.ndarray) -> np.ndarray:
    """A bit a token, in int64; what a grammar allows has it set."""
    bits = np.packbits(allowed, bitorder="little")
    bits.resize(-(-len(bits) // 8) * 8, refcheck=False)
    return bits.view(np.int64)


def allowed_of(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits.view(np.uint8), bitorder="little").view(bool)


def floats(numbers: np.ndarray) -> list[float]:
    return np.ascontiguousarray(numbers).view(np.float64).tolist()
