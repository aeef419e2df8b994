"""What /health says.

In: how the loop is (runtime/loop/pulse.py), and what it has to do. Out: a state, and JSON.

A step is stale when it takes longer than `stale_seconds`, and than three times the longest one of
late: what is slow on a slow machine is no fault there. The server lives no more once a step has
taken longer than a rank may take to answer, for by then the loop should have ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.runtime.loop.loop_protocol import LoopLoad
from mpsplit.runtime.loop.pulse import LoopHealth, RankSign

PATIENCE = 3  # times the longest step of late
NO_LIMIT = 30.0  # seconds, where ranks may take for ever


@dataclass(frozen=True)
class Health:
    loop: LoopHealth
    load: LoopLoad
    most_waiting: int
    ending: bool
    stale_seconds: float

    @property
    def usual(self) -> float:
        """Seconds that a step may take."""
        return max(self.stale_seconds, PATIENCE * self.loop.usual_s)

    @property
    def stale(self) -> bool:
        return self.loop.step_age_s > self.usual

    @property
    def lives(self) -> bool:
        return self.loop.step_age_s <= (self.loop.limit_s or NO_LIMIT) + self.usual

    @property
    def state(self) -> str:
        if self.ending:
            return "ending"
        if self.stale:
            return "stale"
        return "full" if self.load.waiting >= self.most_waiting else "ok"

    def to_json(self) -> dict:
        busy = self.load.running or self.stale
        return {
            "status": self.state,
            "step_age_s": round(self.loop.step_age_s, 3) if busy else None,
            "running": self.load.running,
            "waiting": self.load.waiting,
            "ranks": [
                {"rank": sign.rank, "state": self._state_of(sign), "age_s": round(sign.age_s, 3)}
                for sign in self.loop.ranks
            ],
        }

    def _state_of(self, sign: RankSign) -> str:
        if sign.waits_for is not None:
            return f"waits for rank {sign.waits_for}"
        return "silent" if sign.age_s > self.usual else "ok"
