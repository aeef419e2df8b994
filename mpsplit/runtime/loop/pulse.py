"""How the loop is: whether it turns, and when each rank last answered.

In: what the loop's thread has just done. Out: LoopHealth, asked for from any thread, also while a
step hangs. Invariant: nothing here waits for a rank.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from mpsplit.comm import Communicator

OF_LATE = 64  # turns with a step


@dataclass(frozen=True)
class RankSign:
    """`age_s` since it last answered; `waits_for` another rank for long, which it has told."""

    rank: int
    age_s: float
    waits_for: int | None


@dataclass(frozen=True)
class LoopHealth:
    """`step_age_s` since the last turn was over; the longest one of late took `usual_s`. A rank
    that does not answer for `limit_s` ends all; 0 is for ever."""

    step_age_s: float
    usual_s: float
    limit_s: float
    ranks: tuple[RankSign, ...]


class Pulse:
    def __init__(self, comm: Communicator):
        self.comm = comm
        self._turned = self._answered = time.monotonic()
        self._took: deque[float] = deque([0.0], OF_LATE)

    def turned(self, began: float, stepped: bool) -> None:
        """A turn that began then (time.monotonic()) is over, with a step or without."""
        self._turned = time.monotonic()
        if stepped:
            self._took.append(self._turned - began)

    def answered(self) -> None:
        """All ranks have, just now."""
        self._answered = time.monotonic()

    def health(self) -> LoopHealth:
        now = time.monotonic()
        signs = [
            RankSign(rank, now - (self._answered if rank != self.comm.rank else self._turned), waits_for)
            for rank, waits_for in enumerate(self.comm.waits_for)
        ]
        return LoopHealth(now - self._turned, max(list(self._took)), self.comm.timeout, tuple(signs))
