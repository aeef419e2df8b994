"""From candidates to one token, on rank 0.

In: what the ranks sent, the tokens so far. Out: ChosenToken, the same at any number of ranks.

The order is transformers': a grammar's mask, repetition penalty (then presence and frequency),
temperature, top-k, top-p, min-p; of what these leave one token is drawn. All is computed in float64
from candidates in one order, so that how the vocabulary was cut leaves no trace, not even in
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpsplit.errors import RunError
from mpsplit.runtime.choose.candidates import ALL, Candidates, largest, log_sum_exp
from mpsplit.runtime.choose.sampling import Sampling

EDGE = 1e-9  # nearer to top_p than that, sums of slices may round to its other side


class NoWayOn(RunError):
    """The request's grammar allows no token that this model could say."""


@dataclass(frozen=True)
class ChosenToken:
    """A token of the answer; where asked for, the log of its probability in the model's own
    distribution, and the likeliest."""

    id: int
    logprob: float | None = None
    likely: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Choice:
    """One choice, after `step` tokens; the seed and the step are all its randomness. `penalised`
    and `counts` as Sampling tells them, `logprobs` and `allowed` as Request and Grammar say."""

    sampling: Sampling
    step: int
    penalised: np.ndarray
    counts: np.ndarray
    logprobs: int | None = None
    allowed: np.ndarray | None = None

    @classmethod
    def after(
        cls, history: list[int], sampling: Sampling, logprobs: int | None = None, allowed: np.ndarray | None = None
    ) -> Choice:
        return cls(sampling, len(history), *sampling.penalised(history), logprobs, allowed)

    @property
    def asks(self) -> tuple[int, float]:
        """As Sampling.asks; probabilities and a mask want everything."""
        if self.logprobs is not None or self.allowed is not None:
            return ALL, 0.0
        return self.sampling.asks(len(self.penalised))

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for but the likeliest token."""
        return self.sampling.greedy and not len(self.penalised) and self.logprobs is None and self.allowed is None

    def choose(self, parts: list[Candidates]) -> ChosenToken | None:
        """The token, or None when it needs more candidates than it was given."""
        if self.plain:
            return ChosenToken(_best(parts))
        parts = sorted(parts, key=lambda part: part.ids.min())
        ids = np.concatenate([part.ids for part in parts])
        unchanged = np.concatenate([part.logits for part in parts]).astype(np.float64)
        # no token that was not sent is above the floor, for wherever penalties raise logits
        # everything was asked for
        floor = max((float(part.logits[-1]) for part in parts if not part.complete), default=-np.inf)
        left, logits = self._first(*self._masked(ids, self._lowered(ids, unchanged)))
        kept = 1 if self.sampling.greedy else self._kept(logits, parts)
        needed = logits if self.sampling.greedy or self.sampling.top_k else logits[:kept]
        if not kept or needed.min() <= floor:
            return None
        token = int(left[self._draw(logits[:kept])])
        return ChosenToken(token, *self._probabilities(token, ids, unchanged))

    def _lowered(self, ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """The logits after the penalties."""
        hit = np.flatnonzero(np.isin(ids, self.penalised))
        count = self.counts[np.searchsorted(self.penalised, ids[hit])]
        old, penalty = logits[hit], self.sampling.repetition_penalty
        new = np.where(old < 0, old * penalty, old / penalty)
        new -= self.sampling.presence_penalty + self.sampling.frequency_penalty * count
        lowered = logits.copy()
        lowered[hit] = new
        return lowered

    def _masked(self, ids: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.allowed is None:
            return ids, logits
        fine = self.allowed[np.minimum(ids, len(self.allowed) - 1)] & (ids < len(self.allowed))
        if not fine.any():
            raise NoWayOn("the grammar allows no token here, not even the end; this tokenizer cannot write it")
        return ids[fine], logits[fine]

    def _first(self, ids: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In descending order what top-k leaves, ties with the last one among it; where nothing is
        left out, all as they are."""
        sampling = self.sampling
        if sampling.greedy or sampling.top_k:
            order = largest(ids, logits, 1 if sampling.greedy else sampling.fewest)
        elif sampling.top_p < 1 or sampling.min_p:
            order = largest(ids, logits, len(ids))
        else:
            return ids, logits
        return ids[order], logits[order]

    def _kept(self, logits: np.ndarray, parts: list[Candidates]) -> int:
        """How many top-p and min-p leave of what is in descending order; 0 when that is not
        certain."""
        sampling = self.sampling
        if sampling.top_p == 1 and not sampling.min_p:
            return len(logits)
        scaled = (logits - logits[0]) / sampling.temperature
        kept = len(logits)
        if sampling.top_p < 1:
            whole = sampling.top_k or all(part.complete for part in parts)
            probability = np.exp(scaled - (log_sum_exp(scaled) if whole else self._total(parts, logits[0])))
            before = np.cumsum(probability) - probability
            if not whole and (np.abs(before - sampling.top_p) < EDGE).any():
                return 0
            kept = max(sampling.min_keep, int((before < sampling.top_p).sum()))
        if sampling.min_p:
            kept = min(kept, max(sampling.min_keep, int((scaled >= np.log(sampling.min_p)).sum())))
        return min(kept, len(logits))

    def _total(self, parts: list[Candidates], best: float) -> float:
        """The log of the sum of all weights, with that of the best token 1."""
        heat = self.sampling.temperature
        sums = [log_sum_exp(part.logits.astype(np.float64) / heat) if part.complete else part.rest for part in parts]
        return np.logaddexp.reduce(sums) - best / heat

    def _draw(self, logits: np.ndarray) -> int:
        if len(logits) == 1:
            return 0
        cumulative = np.cumsum(np.exp((logits - logits.max()) / self.sampling.temperature))
        drawn = np.random.Generator(np.random.Philox(key=[self.sampling.seed, self.step])).random() * cumulative[-1]
        return min(int(np.searchsorted(cumulative, drawn, side="right")), len(logits) - 1)

    def _probabilities(
        self, token: int, ids: np.ndarray, logits: np.ndarray
    ) -> tuple[float | None, tuple[tuple[int, float], ...]]:
        """What ChosenToken says of probabilities: those of the model's own distribution, whatever
        was chosen from."""
        if self.logprobs is None:
            return None, ()
        logprobs = logits - log_sum_exp(logits)
        likeliest = largest(ids, logprobs, self.logprobs)[: self.logprobs] if self.logprobs else ()
        return float(logprobs[ids == token][0]), tuple((int(ids[i]), float(logprobs[i])) for i in likeliest)


def _best(parts: list[Candidates]) -> int:
    """The token of the largest logit; of equal ones the lowest."""
    firsts = [(part, int(part.logits.argmax())) for part in parts]
    return min((-float(part.logits[at]), int(part.ids[at])) for part, at in firsts)[1]
