"""From slices of logits to one token. In: each rank's logits. Out: the id, chosen on one rank, the same at any number of ranks.

The order is transformers': repetition penalty, temperature, top-k, top-p. Only candidates travel: each rank's largest logits,
with the sum of the rest, so that top-p knows whether it has seen enough and asks for everything when it has not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpsplit.errors import RunError

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

    def wanted(self) -> int:
        """How many candidates a rank sends at first; 0 for all of them."""
        if self.greedy:
            return 1
        return self.top_k or (NUCLEUS if self.top_p < 1 else 0)


@dataclass(frozen=True)
class Candidates:
    """Logits in descending order with their ids; `rest` is the log of the summed exp of all logits of the slice, at temperature."""

    logits: np.ndarray
    ids: np.ndarray
    rest: float
    complete: bool

    def pack(self) -> np.ndarray:
        """As float64, to travel in one message: [rest, complete, logits..., ids...]."""
        return np.concatenate([[self.rest, self.complete], self.logits, self.ids]).astype(np.float64)

    @classmethod
    def unpack(cls, packed: np.ndarray) -> Candidates:
        count = (len(packed) - 2) // 2
        return cls(
            packed[2 : 2 + count].astype(np.float32),
            packed[2 + count :].astype(np.int64),
            float(packed[0]),
            bool(packed[1]),
        )


def penalise(logits: np.ndarray, first_id: int, history: list[int], sampling: Sampling) -> np.ndarray:
    """The slice that begins at `first_id`, with the tokens of the history made less likely (CTRL's rule)."""
    if sampling.repetition_penalty == 1:
        return logits
    window = history[-sampling.penalty_window :] if sampling.penalty_window else history
    local = np.unique(np.asarray(window, np.int64)) - first_id
    local = local[(local >= 0) & (local < len(logits))]
    out = logits.copy()
    out[local] = np.where(
        out[local] < 0, out[local] * sampling.repetition_penalty, out[local] / sampling.repetition_penalty
    )
    return out


def candidates(logits: np.ndarray, first_id: int, sampling: Sampling, count: int) -> Candidates:
    """The `count` largest of one rank's slice, all for 0; of equal logits the lower id comes first."""
    count = min(count or len(logits), len(logits))
    if count < len(logits):
        smallest = np.partition(logits, len(logits) - count)[len(logits) - count]
        order = np.flatnonzero(logits >= smallest)
    else:
        order = np.arange(len(logits))
    order = order[np.lexsort((order, -logits[order]))][:count]
    scaled = logits.astype(np.float64) / (sampling.temperature or 1)
    rest = float(scaled.max() + np.log(np.exp(scaled - scaled.max()).sum()))
    return Candidates(logits[order], order + first_id, rest, count == len(logits))


def choose(parts: list[Candidates], sampling: Sampling, step: int) -> int | None:
    """The token, or None when top-p needs more candidates than it was given. `step` and the seed are all the randomness."""
    logits = np.concatenate([part.logits for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    order = np.lexsort((ids, -logits))
    logits, ids = logits[order], ids[order]
    if sampling.greedy:
        return int(ids[0])
    scaled = logits.astype(np.float64) / sampling.temperature
    if sampling.top_k:
        scaled = scaled[scaled >= scaled[min(sampling.top_k, len(scaled)) - 1]]
        total = scaled.max() + np.log(np.exp(scaled - scaled.max()).sum())
    else:
        total = np.logaddexp.reduce([part.rest for part in parts])
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
