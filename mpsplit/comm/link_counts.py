"""What one rank handed to another, and how long it waited for it, as extensions/comm/link_counts.h
counts it. In: counts. Out: Links.

Counts are int64 [ranks, COLUMNS], a row a peer: bytes and messages handed over, nanoseconds waited,
then waits by their length. So what several steps or ranks counted is added up, and quantiles are of
all of it, to a fifth of their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# of waits: the i-th are those below SHORTEST * sqrt(2)^i, the last also what is longer
LENGTHS = 48
SHORTEST = 500e-9  # seconds
BYTES, MESSAGES, WAITED, WAITS = range(4)
COLUMNS = WAITS + LENGTHS
NANO = 1e-9


@dataclass(frozen=True)
class Link:
    """From `rank` to `peer`; `waits` of the rank for the peer."""

    rank: int
    peer: int
    bytes: int
    messages: int
    waits: int
    waited_s: float
    wait_p50_s: float
    wait_p99_s: float


def nothing(ranks: int) -> np.ndarray:
    return np.zeros((ranks, COLUMNS), np.int64)


def links_of(rank: int, passed: np.ndarray) -> list[Link]:
    """To those with whom it had to do."""
    return [
        Link(
            rank,
            peer,
            bytes=int(row[BYTES]),
            messages=int(row[MESSAGES]),
            waits=int(row[WAITS:].sum()),
            waited_s=float(row[WAITED] * NANO),
            wait_p50_s=quantile(row[WAITS:], 0.5),
            wait_p99_s=quantile(row[WAITS:], 0.99),
        )
        for peer, row in enumerate(passed)
        if row.any()
    ]


def no_longer(row: np.ndarray) -> list[tuple[float, int]]:
    """How many waits for a peer were no longer than so many seconds, each four times those
    before."""
    sums = row[WAITS:].cumsum().tolist()
    return [(SHORTEST * 2 ** (i / 2), sums[i]) for i in range(0, LENGTHS - 1, 4)]


def quantile(counts: np.ndarray, share: float) -> float:
    """Seconds: such a share of the waits was no longer; 0 where nobody waited."""
    if not (total := counts.sum()):
        return 0.0
    length = int(np.searchsorted(counts.cumsum(), math.ceil(share * total)))
    return SHORTEST * 2 ** ((length - 0.5) / 2)
