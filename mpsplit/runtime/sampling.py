"""From slices of logits to one token. In: each rank's logits. Out: the id, chosen on rank 0, the same at any number of ranks.

The order is transformers': repetition penalty, temperature, top-k, top-p, all on rank 0. Only candidates travel: each rank's
largest logits, and for top-p the sum of the rest, so that it knows whether it has seen enough and asks for all when it has not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.plan.shards import Range
from mpsplit.runtime.orders import ALL

NUCLEUS = 256  # candidates a rank sends for top-p alone: nearly always enough


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0 and top_p 1 are off; the penalty counts the last `penalty_window` tokens, 0 for all."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    penalty_window: int = 0
    seed: int = 0

    def check(self) -> Sampling:
        limits = (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top-k", self.top_k >= 0, "0 (off) or more"),
            ("top-p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition-penalty", self.repetition_penalty > 0, "above 0"),
            ("penalty-window", self.penalty_window >= 0, "0 (all tokens) or more"),
            ("seed", self.seed >= 0, "0 or more"),
        )
        for name, fine, allowed in limits:
            if not fine:
                raise RunError(
                    f"--{name} {getattr(self, name.replace('-', '_'))} is out of range; it must be {allowed}"
                )
        return self

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def penalised(self, history: list[int]) -> np.ndarray:
        """The distinct tokens that the penalty counts."""
        if self.repetition_penalty == 1:
            return np.empty(0, np.int64)
        return np.unique(np.asarray(history[-self.penalty_window :], np.int64))

    def asks(self, penalised: int) -> tuple[int, float]:
        """How many candidates of each rank will do, and the temperature at which to sum up the rest, 0 for not at all.

        A penalty above 1 only lowers logits: the first n after it are among the first n + penalised before it.
        """
        count = 1 if self.greedy else self.top_k
        if count and (not penalised or self.repetition_penalty > 1):
            return count + penalised, 0.0
        if not count and not penalised and self.top_p < 1:
            return NUCLEUS, self.temperature
        return ALL, 0.0


@dataclass(frozen=True)
class Candidates:
    """A whole slice as it lies, or its largest logits in descending order; `rest` as in orders.py."""

    logits: np.ndarray  # float32
    ids: np.ndarray
    complete: bool
    rest: float = np.nan

    def pack(self) -> np.ndarray:
        """The answer that orders.py describes."""
        return self.logits if self.complete else np.concatenate([[self.rest], self.logits, self.ids])

    @classmethod
    def receive(cls, comm: Communicator, rank: int, rows: Range, wanted: int) -> Candidates:
        """The answer of another rank, which owns these rows of the head."""
        if not 0 <= wanted < len(rows):
            logits = np.empty(len(rows), np.float32)
            comm.recv(logits, rank)
            return candidates(logits, rows.start, ALL)
        packed = np.empty(1 + 2 * wanted)
        comm.recv(packed, rank)
        return cls(packed[1 : 1 + wanted].astype(np.float32), packed[1 + wanted :].astype(np.int64), False, packed[0])


def candidates(logits: np.ndarray, first_id: int, wanted: int, temperature: float = 0.0) -> Candidates:
    """The `wanted` largest of one rank's slice, or all of it; of equal logits the lower id comes first."""
    if not 0 <= wanted < len(logits):
        return Candidates(logits, np.arange(first_id, first_id + len(logits)), True)
    if wanted == 1:
        order = np.array([logits.argmax()])
    else:
        smallest = np.partition(logits, len(logits) - wanted)[len(logits) - wanted]
        order = np.flatnonzero(logits >= smallest)
        order = order[np.lexsort((order, -logits[order]))][:wanted]
    rest = _log_sum_exp(_scaled(logits, temperature)) if temperature else np.nan
    return Candidates(logits[order], order + first_id, False, rest)


def penalise(part: Candidates, penalised: np.ndarray, penalty: float) -> Candidates:
    """The penalised tokens made less likely (CTRL's rule)."""
    if not len(penalised):
        return part
    lower = np.where(part.logits < 0, part.logits * penalty, part.logits / penalty)
    return replace(part, logits=np.where(np.isin(part.ids, penalised), lower, part.logits))


def choose(parts: list[Candidates], sampling: Sampling, step: int, penalised: np.ndarray) -> int | None:
    """The token, or None when top-p needs more candidates than it was given. `step` and the seed are all the randomness."""
    parts = [penalise(part, penalised, sampling.repetition_penalty) for part in parts]
    logits = np.concatenate([part.logits for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    order = np.lexsort((ids, -logits))[: sampling.top_k or None]
    logits, ids = logits[order], ids[order]
    if sampling.greedy:
        return int(ids[0])
    scaled = _scaled(logits, sampling.temperature)
    if sampling.top_k:
        total = _log_sum_exp(scaled)
    else:
        total = np.logaddexp.reduce(
            [_log_sum_exp(_scaled(p.logits, sampling.temperature)) if p.complete else p.rest for p in parts]
        )
    probability = np.exp(scaled - total)
    if sampling.top_p < 1:
        before = np.cumsum(probability) - probability
        kept = int((before < sampling.top_p).sum())
        floor = max((part.logits[-1] for part in parts if not part.complete), default=-np.inf)
        unseen = not sampling.top_k and not all(part.complete for part in parts)
        if unseen and (kept == len(scaled) or logits[kept - 1] < floor):
            return None  # the nucleus may reach below what a rank has sent
        probability = probability[:kept]
    draw = np.random.Generator(np.random.Philox(key=[sampling.seed, step])).random()
    cumulative = np.cumsum(probability)
    return int(ids[np.searchsorted(cumulative, draw * cumulative[-1], side="right").clip(max=len(probability) - 1)])


def _scaled(logits: np.ndarray, temperature: float) -> np.ndarray:
    return logits.astype(np.float64) / temperature


def _log_sum_exp(x: np.ndarray) -> float:
    return float(x.max() + np.log(np.exp(x - x.max()).sum()))
