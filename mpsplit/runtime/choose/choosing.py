"""From what the ranks answer to one token, on rank 0.

In: answers (answers.py), and a way to ask for more. Out: ChosenToken, the same at any number of
ranks, and the same as from all logits in one place.

The order is transformers': logit_bias, repetition penalty (then presence and frequency), a
grammar's mask, temperature, top-k, top-p, min-p; of what these leave one token is drawn. All is in
float64.

A few candidates decide nearly always. Without top-k they may be too few, or nothing may be left out
at all. Then sums say in which block of ids or cell of logits (cells.py) the draw falls, and only
the logits there are asked for. Where the last token took many cells, the next one asks for cells at
once. A sum of slices rounds otherwise than the sum of all: what falls nearer than EDGE to where two
tokens part is decided by all logits, in one order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mpsplit.runtime.choose.answers import (
    ALL,
    BLOCK,
    BLOCKS,
    BY_MASK,
    BY_TILT,
    CELL,
    CELLS,
    SPAN,
    WIDE,
    Draw,
    Wish,
    allowed_of,
    cell_of,
    largest,
    log_sum_exp,
    tilted,
)
from mpsplit.runtime.choose.candidates import Answer, likely_tokens, whole
from mpsplit.runtime.choose.cells import EDGE, CellDraw, Cells, Uncertain, depth, sure_place
from mpsplit.runtime.choose.draws import uniform
from mpsplit.runtime.choose.lexicon import NoWayOn
from mpsplit.runtime.choose.sampling import NUCLEUS, Sampling


@dataclass(frozen=True)
class ChosenToken:
    """A token of the answer; where asked for, the log of its probability in the model's own
    distribution, and the likeliest. `wide` is for the next choice, not for the answer."""

    id: int
    logprob: float | None = None
    likely: tuple[tuple[int, float], ...] = ()
    wide: int = field(default=0, compare=False)


class AskAgain(Protocol):
    """More of the same logits, from every rank with rows of the head; of CELL it must be known how
    many each has."""

    def __call__(
        self, wanted: int, start: int = 0, count: int = 0, temperature: float = 0.0, has: Sequence[int] = ()
    ) -> list[Answer]: ...


@dataclass(frozen=True)
class Choice:
    """One choice; the seed and the length of the history are all its randomness. `logprobs` and
    `allowed` as Request and Grammar say. `wide`: so many cells are asked for in the place of
    candidates, where top-p or min-p cut; which are asked for changes no token."""

    sampling: Sampling
    history: Sequence[int]
    logprobs: int | None = None
    allowed: np.ndarray | None = None
    wide: int = 0

    @property
    def wish(self) -> Wish:
        """What is asked of each rank first."""
        changed = BY_TILT * (self.sampling.penalises or bool(self.sampling.logit_bias))
        changed |= BY_MASK * (self.allowed is not None)
        likely = -1 if self.logprobs is None else self.logprobs
        if self.wide:
            return Wish(WIDE - self.wide, likely, changed, self.sampling.temperature)
        return Wish(self.sampling.wanted, likely, changed, self.sampling.summed_at)

    @property
    def draw(self) -> Draw:
        """What the only rank with rows of the head is told beside it."""
        how = self.sampling
        return Draw(how.temperature, how.top_k, how.top_p, how.min_p, how.min_keep, self._random())

    def choose(self, answers: list[Answer], again: AskAgain) -> ChosenToken:
        wanted, wide = answers[0].wish.wanted, 0
        try:
            if answers[0].drawn:
                token, own, wide = _as_drawn(answers[0].message)
            elif wanted == BLOCKS:
                token, own = self._from_blocks(answers, again)
            elif wanted < WIDE:
                token, own, wide = self._from_wide(answers, again)
            elif wanted != ALL:
                token, own, wide = self._from_candidates(answers, again)
            else:
                return self.from_all(whole(answers))
        except Uncertain:
            return self.from_all(whole(again(ALL)))
        if self.logprobs is None:
            return ChosenToken(token, wide=wide)
        total, likely = likely_tokens(answers, self.logprobs)
        return ChosenToken(token, own - total, likely, wide)

    # -- from a few -------------------------------------------------------------------------------

    def _from_candidates(self, answers: list[Answer], again: AskAgain) -> tuple[int, float, int]:
        """The token, the model's own logit of it, and how many cells to ask for next time."""
        logits, ids, own = self._candidates(answers)
        # without a grammar the logits are not finite, which verify wants to name the layer of
        if logits[0] == -np.inf and not (self.sampling.greedy and self.allowed is None):
            raise _lost()
        if self.sampling.greedy:
            return int(ids[0]), float(own[0]), 0
        # no token that was not sent is above the floor
        floor = max((float(answer.column(0)[-1]) for answer in answers if not answer.complete), default=-np.inf)
        if logits[-1] == -np.inf:
            logits = logits[: np.searchsorted(-logits, np.inf)]
        left = logits
        if self.sampling.top_k and self.sampling.fewest < len(logits):
            last = logits[self.sampling.fewest - 1]
            left = logits[: np.searchsorted(-logits, -last, side="right")]
        if self.sampling.top_k and left[-1] <= floor:
            raise Uncertain
        scaled = (left - left[0]) / self.sampling.temperature
        all_there = bool(self.sampling.top_k) or floor == -np.inf
        kept = self._kept(scaled, None if all_there or self.sampling.top_p == 1 else self._total(answers, left[0]))
        if not self.sampling.top_k and left[kept - 1] <= floor:
            if kept <= self.sampling.min_keep:
                raise Uncertain
            return self._from_cells(float(logits[0]), answers, again)
        at = self._draw(scaled[:kept])
        return int(ids[at]), float(own[at]), 0

    def _candidates(self, answers: list[Answer]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All that were sent in descending order: logits, ids, the model's own."""
        columns = 2 if self.logprobs is None else 3
        if len(answers) == 1:
            logits, ids, own = (answers[0].column(number) for number in (0, 1, columns - 1))
            return logits, ids, own
        logits, ids, own = (
            np.concatenate([answer.column(number) for answer in answers]) for number in (0, 1, columns - 1)
        )
        order = np.lexsort((ids, -logits))
        return logits[order], ids[order], own[order]

    def _kept(self, scaled: np.ndarray, total: float | None) -> int:
        """How many top-p and min-p leave, of logits over the temperature in descending order, the
        first of them 0. `total` is the log of the sum of all weights where these are not all."""
        sampling, kept = self.sampling, len(scaled)
        if sampling.top_p < 1:
            probability = np.exp(scaled - (log_sum_exp(scaled) if total is None else total))
            before = probability.cumsum() - probability
            kept = int(np.count_nonzero(before < sampling.top_p))
            if total is not None and (np.abs(before[max(0, kept - 1) : kept + 1] - sampling.top_p) < EDGE).any():
                raise Uncertain
            kept = max(sampling.min_keep, kept)
        if sampling.min_p:
            kept = min(kept, max(sampling.min_keep, int(np.count_nonzero(scaled >= np.log(sampling.min_p)))))
        return min(kept, len(scaled))

    def _total(self, answers: list[Answer], best: float) -> float:
        """The log of the sum of all weights, with that of the best token 1."""
        rests = [answer.head for answer in answers]
        rest = rests[0] if len(rests) == 1 else float(np.logaddexp.reduce(rests))
        return rest - best / self.sampling.temperature

    def _draw(self, scaled: np.ndarray) -> int:
        """One of these, the largest of which is 0."""
        if len(scaled) == 1:
            return 0
        cumulative = np.exp(scaled).cumsum()
        drawn = self._random() * cumulative[-1]
        return min(int(cumulative.searchsorted(drawn, side="right")), len(scaled) - 1)

    def _random(self) -> float:
        return uniform(self.sampling.seed, len(self.history))

    # -- from sums --------------------------------------------------------------------------------

    def _from_blocks(self, answers: list[Answer], again: AskAgain) -> tuple[int, float]:
        """Nothing is left out, and the tokens stand in the order of ids."""
        answers = sorted(answers, key=lambda answer: answer.rows.start)
        heat, top = self.sampling.temperature, max(answer.head for answer in answers)
        if top == -np.inf:
            raise _lost()
        sums = np.concatenate([answer.sums * math.exp(answer.head - top) for answer in answers])
        ends = sums.cumsum()
        drawn, sure = self._random() * ends[-1], EDGE * ends[-1]
        which = min(int(ends.searchsorted(drawn, side="right")), len(ends) - 1)
        start, stop = _rows_of_block(which, answers)
        found = next(answer.message for answer in again(SPAN, start, stop - start) if len(answer.message))
        logits = found[: stop - start]
        cumulative = ends[which] - sums[which] + np.exp(logits / heat - top).cumsum()
        at = sure_place(cumulative, drawn, float(ends[which] - sums[which]), sure)
        return start + at, float(found[-(stop - start) :][at])

    def _from_cells(self, best: float, answers: list[Answer], again: AskAgain) -> tuple[int, float, int]:
        """Top-p or min-p leave more than was told. `best` is the largest logit."""
        heat = self.sampling.temperature
        total = self._total(answers, best) if self.sampling.top_p < 1 else math.inf
        count, top = depth(self.sampling, total, max(answer.rows.stop for answer in answers)), cell_of(best / heat)
        told = again(CELLS, top, count, heat)
        return self._draw_in(self._cell_draw(best, total, Cells.of(top, [each.message for each in told]), again))

    def _from_wide(self, answers: list[Answer], again: AskAgain) -> tuple[int, float, int]:
        best = max(float(answer.message[1]) for answer in answers)
        if best == -np.inf:
            raise _lost()
        cells = Cells.of_wide(answers, self.sampling.temperature)
        draw = self._cell_draw(best, self._total(answers, best), cells, again)
        return self._draw_in(draw) if draw.deep_enough else self._from_cells(best, answers, again)

    def _cell_draw(self, best: float, total: float, cells: Cells, again: AskAgain) -> CellDraw:
        def ask(cell: int, has: np.ndarray) -> list[np.ndarray]:
            told = again(CELL, cells.top, cell, self.sampling.temperature, has.astype(int).tolist())
            return [answer.message.reshape(2 if self.logprobs is None else 3, -1) for answer in told]

        return CellDraw(self.sampling, best, total, cells, ask)

    def _draw_in(self, draw: CellDraw) -> tuple[int, float, int]:
        token, own, cut = draw.draw(self._random())
        many = self.sampling.min_keep == 1 and draw.cells.counts[:, :cut].sum() >= NUCLEUS
        return token, own, (cut + cut // 8 + 8) * bool(many)

    # -- from all ---------------------------------------------------------------------------------

    def from_all(self, own: np.ndarray) -> ChosenToken:
        """From the model's own logits of the whole vocabulary, float64."""
        ids, logits = self._masked(self._tilted(own))
        left = self._first(ids, logits)
        if len(left) < len(ids) or self._sorts:
            ids, logits = ids[left], logits[left]
        token = int(ids[0])
        if not self.sampling.greedy:
            scaled = (logits - logits.max()) / self.sampling.temperature
            token = int(ids[self._draw(scaled[: self._kept(scaled, None)])])
        if self.logprobs is None:
            return ChosenToken(token)
        logprobs = own - log_sum_exp(own)
        likeliest = largest(np.arange(len(own)), logprobs, self.logprobs)[: self.logprobs] if self.logprobs else ()
        return ChosenToken(token, float(logprobs[token]), tuple((int(i), float(logprobs[i])) for i in likeliest))

    def _tilted(self, own: np.ndarray) -> np.ndarray:
        sampling = self.sampling
        counts = np.zeros(len(own), np.int64)
        if sampling.penalises:
            recent = np.asarray(self.history[-sampling.penalty_window :], np.int64)
            counts += np.bincount(recent, minlength=len(own))
        biases = np.zeros(len(own))
        for token, bias in sampling.logit_bias:
            biases[token] = bias
        penalties = sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
        return tilted(own, counts, biases, *penalties)

    def _masked(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.allowed is None:
            return np.arange(len(logits)), logits
        ids = np.flatnonzero(allowed_of(self.allowed)[: len(logits)])
        if not len(ids):
            raise _lost()
        return ids, logits[ids]

    @property
    def _sorts(self) -> bool:
        sampling = self.sampling
        return bool(sampling.greedy or sampling.top_k or sampling.top_p < 1 or sampling.min_p)

    def _first(self, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """In descending order what top-k leaves, ties with the last one among it; where nothing is
        left out, all as they are."""
        sampling = self.sampling
        if not self._sorts:
            return np.arange(len(ids))
        top_k = sampling.greedy or sampling.top_k
        return largest(ids, logits, (1 if sampling.greedy else sampling.fewest) if top_k else len(ids))


def _as_drawn(message: np.ndarray) -> tuple[int, float, int]:
    token, own, wide = message[:3].tolist()
    return int(token), own, int(wide)


def _rows_of_block(which: int, answers: list[Answer]) -> tuple[int, int]:
    """Of one of the blocks of all ranks, in the order of ids."""
    for answer in answers:
        if which < len(answer.sums):
            start = answer.rows.start + which * BLOCK
            return start, min(start + BLOCK, answer.rows.stop)
        which -= len(answer.sums)
    raise AssertionError("no rank has this block")


def _lost() -> NoWayOn:
    return NoWayOn("the grammar allows no token here, not even the end; this tokenizer cannot write it")
