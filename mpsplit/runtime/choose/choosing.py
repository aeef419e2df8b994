"""From what the ranks answer to one token, on rank 0.

In: answers (answers.py), and a way to ask for more. Out: ChosenToken, the same at any number of
ranks, and the same as from all logits in one place.

The order is transformers': logit_bias, repetition penalty (then presence and frequency), a
grammar's mask, temperature, top-k, top-p, min-p; of what these leave one token is drawn. All is in
float64.

A few candidates decide nearly always. Without top-k they may be too few, or nothing may be left out
at all. Then sums say in which block of ids or cell of logits the draw falls, and only the logits
there are asked for. A sum of slices rounds otherwise than the sum of all: what falls nearer than
EDGE to where two tokens part is decided by all logits, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import (
    ALL,
    BLOCK,
    BLOCKS,
    BY_MASK,
    BY_TILT,
    CELL,
    CELLS,
    GRAIN,
    SPAN,
    Wish,
    largest,
    log_sum_exp,
    tilted,
)
from mpsplit.runtime.choose.candidates import Answer, likely_tokens, whole
from mpsplit.runtime.choose.sampling import Sampling

EDGE = 1e-9  # of the sum of all weights
DEEPEST = 60.0  # below the best, in logits at temperature 1, where cells are told


class NoWayOn(RunError):
    """The request's grammar allows no token that this model could say."""


class Uncertain(Exception):
    """Only all logits can tell."""


@dataclass(frozen=True)
class ChosenToken:
    """A token of the answer; where asked for, the log of its probability in the model's own
    distribution, and the likeliest."""

    id: int
    logprob: float | None = None
    likely: tuple[tuple[int, float], ...] = ()


class AskAgain(Protocol):
    """More of the same logits, from every rank with rows of the head; of CELL it must be known how
    many each has."""

    def __call__(
        self, wanted: int, start: int = 0, count: int = 0, temperature: float = 0.0, has: Sequence[int] = ()
    ) -> list[Answer]: ...


@dataclass(frozen=True)
class Choice:
    """One choice; the seed and the length of the history are all its randomness. `logprobs` and
    `allowed` as Request and Grammar say."""

    sampling: Sampling
    history: Sequence[int]
    logprobs: int | None = None
    allowed: np.ndarray | None = None

    @property
    def wish(self) -> Wish:
        """What is asked of each rank first."""
        changed = BY_TILT * (self.sampling.penalises or bool(self.sampling.logit_bias))
        changed |= BY_MASK * (self.allowed is not None)
        likely = -1 if self.logprobs is None else self.logprobs
        return Wish(self.sampling.wanted, likely, changed, self.sampling.summed_at)

    def choose(self, answers: list[Answer], again: AskAgain) -> ChosenToken:
        wanted = answers[0].wish.wanted
        try:
            if wanted == BLOCKS:
                token, own = self._from_blocks(answers, again)
            elif wanted != ALL:
                token, own = self._from_candidates(answers, again)
            else:
                return self.from_all(whole(answers))
        except Uncertain:
            return self.from_all(whole(again(ALL)))
        if self.logprobs is None:
            return ChosenToken(token)
        total, likely = likely_tokens(answers, self.logprobs)
        return ChosenToken(token, own - total, tuple((id, logit - total) for id, logit in likely))

    # -- from a few -------------------------------------------------------------------------------

    def _from_candidates(self, answers: list[Answer], again: AskAgain) -> tuple[int, float]:
        """The token, and the model's own logit of it."""
        logits, ids, own = self._candidates(answers)
        if logits[0] == -np.inf:
            raise _lost()
        if self.sampling.greedy:
            return int(ids[0]), float(own[0])
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
        kept = self._kept(left, answers)
        if not self.sampling.top_k and left[kept - 1] <= floor:
            if kept <= self.sampling.min_keep:
                raise Uncertain
            return self._from_cells(float(logits[0]), answers, again)
        at = self._draw(left[:kept])
        return int(ids[at]), float(own[at])

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

    def _kept(self, logits: np.ndarray, answers: list[Answer] | None) -> int:
        """How many top-p and min-p leave of what is in descending order; these are all that there
        are where no answers are given."""
        sampling = self.sampling
        if sampling.top_p == 1 and not sampling.min_p:
            return len(logits)
        scaled = (logits - logits[0]) / sampling.temperature
        kept = len(logits)
        if sampling.top_p < 1:
            few = answers is not None and not sampling.top_k and not all(answer.complete for answer in answers)
            total = self._total(answers, logits[0]) if few and answers else log_sum_exp(scaled)
            probability = np.exp(scaled - total)
            before = np.cumsum(probability) - probability
            if few and np.abs(before - sampling.top_p).min() < EDGE:
                raise Uncertain
            kept = max(sampling.min_keep, int((before < sampling.top_p).sum()))
        if sampling.min_p:
            kept = min(kept, max(sampling.min_keep, int((scaled >= np.log(sampling.min_p)).sum())))
        return min(kept, len(logits))

    def _total(self, answers: list[Answer], best: float) -> float:
        """The log of the sum of all weights, with that of the best token 1."""
        return float(np.logaddexp.reduce([answer.head for answer in answers])) - best / self.sampling.temperature

    def _draw(self, logits: np.ndarray) -> int:
        if len(logits) == 1:
            return 0
        cumulative = np.cumsum(np.exp((logits - logits.max()) / self.sampling.temperature))
        drawn = self._random() * cumulative[-1]
        return min(int(np.searchsorted(cumulative, drawn, side="right")), len(logits) - 1)

    def _random(self) -> float:
        return np.random.Generator(np.random.Philox(key=[self.sampling.seed, len(self.history)])).random()

    # -- from sums --------------------------------------------------------------------------------

    def _from_blocks(self, answers: list[Answer], again: AskAgain) -> tuple[int, float]:
        """Nothing is left out, and the tokens stand in the order of ids."""
        answers = sorted(answers, key=lambda answer: answer.rows.start)
        heat, top = self.sampling.temperature, max(answer.head for answer in answers)
        if top == -np.inf:
            raise _lost()
        sums = np.concatenate([answer.sums * np.exp(answer.head - top) for answer in answers])
        starts = [start for answer in answers for start in range(answer.rows.start, answer.rows.stop, BLOCK)]
        ends = np.cumsum(sums)
        drawn, sure = self._random() * ends[-1], EDGE * ends[-1]
        which = min(int(np.searchsorted(ends, drawn, side="right")), len(ends) - 1)
        start = starts[which]
        stop = next(
            min(start + BLOCK, answer.rows.stop) for answer in answers if answer.rows.start <= start < answer.rows.stop
        )
        found = next(answer.message for answer in again(SPAN, start, stop - start) if len(answer.message))
        logits = found[: stop - start]
        cumulative = ends[which] - sums[which] + np.cumsum(np.exp(logits / heat - top))
        at = self._sure(cumulative, drawn, float(ends[which] - sums[which]), sure)
        return start + at, float(found[-(stop - start) :][at])

    def _from_cells(self, best: float, few: list[Answer], again: AskAgain) -> tuple[int, float]:
        """Top-p or min-p leave more than the `few` that were sent. `best` is the largest logit."""
        sampling, heat = self.sampling, self.sampling.temperature
        log_p, total = (np.log(sampling.min_p) if sampling.min_p else -np.inf), np.inf
        deep = -log_p
        if sampling.top_p < 1:
            # what lies deeper weighs less than top-p leaves out, even if it were all that there is
            total = self._total(few, best)
            count = max(answer.rows.stop for answer in few)
            deep = min(deep, np.log(count) - np.log1p(-sampling.top_p) - total)
        if not deep < DEEPEST:
            raise Uncertain
        top, cells = int(np.floor(best / heat * GRAIN)), int(deep * GRAIN) + 3
        ceiling = (top + 1) / GRAIN
        answers = again(CELLS, top, cells, heat)
        counts = np.array([answer.message[:cells] for answer in answers]).astype(int)
        ends = np.cumsum(np.sum([answer.message[cells:] for answer in answers], axis=0))
        total = np.exp(total + best / heat - ceiling) if sampling.top_p < 1 else float(ends[-1])
        sure = EDGE * total

        def found(sought: float) -> tuple[float, int, float]:
            """The first token with which the sum of weights passes what is sought: the sum, the
            token, the model's own logit."""
            cell = int(np.searchsorted(ends, sought, side="right"))
            if cell == cells:
                raise Uncertain
            _, ids, own, sums = self._inside(again, counts, top, cell, ends)
            at = self._sure(sums, sought, float(ends[cell - 1]) if cell else 0.0, sure)
            return float(sums[at]), int(ids[at]), float(own[at])

        kept, target = np.inf, sampling.top_p * total
        if sampling.top_p < 1 and not (sampling.min_p and target > ends[-1] + sure):  # min-p leaves fewer
            kept = found(target)[0]
        if sampling.min_p:
            kept = min(kept, self._above(best, log_p, again, counts, top, ends))
        drawn = self._random() * kept
        if kept - drawn < sure:
            raise Uncertain
        return found(drawn)[1:]

    def _above(
        self, best: float, log_p: float, again: AskAgain, counts: np.ndarray, top: int, ends: np.ndarray
    ) -> float:
        """The sum of the weights of what min-p leaves."""
        cell = top - int(np.floor((best / self.sampling.temperature + log_p) * GRAIN))
        if cell >= len(ends):  # top-p leaves fewer
            return np.inf
        logits, *_, sums = self._inside(again, counts, top, cell, ends)
        scaled = (logits - best) / self.sampling.temperature
        near = (best / self.sampling.temperature + log_p) * GRAIN % 1
        if (np.abs(scaled - log_p) < EDGE).any() or min(near, 1 - near) < EDGE * GRAIN * max(1, abs(best)):
            raise Uncertain
        fine = int((scaled >= log_p).sum())
        return float(sums[fine - 1]) if fine else float(ends[cell - 1]) if cell else 0.0

    def _inside(
        self, again: AskAgain, counts: np.ndarray, top: int, cell: int, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A cell in descending order: logits, ids, the model's own, the sum of all weights up to
        each."""
        heat = self.sampling.temperature
        told = again(CELL, top, cell, heat, counts[:, cell].tolist())
        columns = [answer.message.reshape(self._columns, -1) for answer in told]
        together = np.concatenate(columns, axis=1)
        together = together[:, np.lexsort((together[1], -together[0]))]
        weights = np.exp(together[0] / heat - (top + 1) / GRAIN)
        before = ends[cell - 1] if cell else 0.0
        return together[0], together[1], together[-1], before + np.cumsum(weights)

    @property
    def _columns(self) -> int:
        return 2 if self.logprobs is None else 3

    @staticmethod
    def _sure(cumulative: np.ndarray, sought: float, before: float, sure: float) -> int:
        """Where the sum passes what is sought, far enough from where it begins and ends there."""
        at = int(np.searchsorted(cumulative, sought, side="right"))
        if at == len(cumulative) or cumulative[at] - sought < sure:
            raise Uncertain
        if sought - (cumulative[at - 1] if at else before) < sure and (at or before):
            raise Uncertain
        return at

    # -- from all ---------------------------------------------------------------------------------

    def from_all(self, own: np.ndarray) -> ChosenToken:
        """From the model's own logits of the whole vocabulary, float64."""
        ids, logits = self._masked(self._tilted(own))
        left = self._first(ids, logits)
        if len(left) < len(ids) or self._sorts:
            ids, logits = ids[left], logits[left]
        kept = 1 if self.sampling.greedy else self._kept(logits, None)
        token = int(ids[self._draw(logits[:kept])])
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
        ids = np.arange(len(logits))
        if self.allowed is None:
            return ids, logits
        fine = self.allowed[np.minimum(ids, len(self.allowed) - 1)] & (ids < len(self.allowed))
        if not fine.any():
            raise _lost()
        return ids[fine], logits[fine]

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


def _lost() -> NoWayOn:
    return NoWayOn("the grammar allows no token here, not even the end; this tokenizer cannot write it")
