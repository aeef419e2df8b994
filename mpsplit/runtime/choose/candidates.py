"""What each rank sends of its logits, so that rank 0 can choose.

In: a rank's slice of the logits. Out: candidates for choosing.py on rank 0.

Only candidates travel: the largest logits of each rank, and for top-p the sum of the rest. From
these rank 0 knows whether it has seen enough; it asks for all when it has not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.plan.shards import Range

NOTHING, ALL = 0, -1  # how many candidates are wanted, where that is no number


@dataclass(frozen=True)
class Candidates:
    """A whole slice as it lies, or its largest logits in descending order; `rest` as in
    orders.py."""

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
            return candidates_of(logits, rows.start, ALL)
        packed = np.empty(1 + 2 * wanted)
        comm.recv(packed, rank)
        return cls(packed[1 : 1 + wanted].astype(np.float32), packed[1 + wanted :].astype(np.int64), False, packed[0])


def candidates_of(logits: np.ndarray, first_id: int, wanted: int, temperature: float = 0.0) -> Candidates:
    """The `wanted` largest of one rank's slice, or all of it; of equal logits the lower id comes
    first."""
    if not 0 <= wanted < len(logits):
        return Candidates(logits, np.arange(first_id, first_id + len(logits)), True)
    order = np.array([logits.argmax()]) if wanted == 1 else largest(np.arange(len(logits)), logits, wanted)[:wanted]
    rest = log_sum_exp(logits.astype(np.float64) / temperature) if temperature else np.nan
    return Candidates(logits[order], order + first_id, False, rest)


def largest(ids: np.ndarray, logits: np.ndarray, wanted: int) -> np.ndarray:
    """Where the `wanted` largest are, and ties with the last of them, in descending order; of equal
    ones the lower id comes first."""
    if wanted >= len(logits):
        return np.lexsort((ids, -logits))
    order = np.flatnonzero(logits >= np.partition(logits, len(logits) - wanted)[len(logits) - wanted])
    return order[np.lexsort((ids[order], -logits[order]))]


def log_sum_exp(x: np.ndarray) -> float:
    return float(x.max() + np.log(np.exp(x - x.max()).sum()))
