"""What each rank does of late: how much of the time it computes, and how much it waits for others. In: accounts (account.py) as they are
reported. Out: a row a rank, for metrics, the page and `mpsplit top`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from mpsplit.comm import Communicator
from mpsplit.plan.shards import Plan
from mpsplit.runtime.account import Account

WINDOW = 5.0  # seconds that "of late" means
NANO = 1e-9


class Ledger:
    """`hosts`: the name of each rank's machine."""

    def __init__(self, plan: Plan, hosts: Sequence[str]):
        self.plan, self.hosts = plan, hosts
        self._last = time.monotonic()
        self._of_late: deque[tuple[float, float, int, tuple[Account, ...]]] = deque()  # when, over how long, what

    @property
    def age(self) -> float:
        """Seconds since the last report."""
        return time.monotonic() - self._last

    def add(self, accounts: tuple[Account, ...], rows: int) -> None:
        """`rows`: tokens that were fed meanwhile, of prompts and of answers."""
        now = time.monotonic()
        self._of_late.append((now, now - self._last, rows, accounts))
        self._last = now
        while now - self._of_late[0][0] > WINDOW:
            self._of_late.popleft()

    def rows(self) -> list[dict]:
        """`memory_bytes` at the peak; `tok_s` of prompts and answers; `busy` and `wait` are shares of the time."""
        reports = list(self._of_late)
        found = []
        for shard in self.plan.shards:
            own = [accounts[shard.rank] for *_, accounts in reports]
            seconds = max(sum(over for _, over, *_ in reports), 1e-3) + (self.age if self.age > 2 else 0)
            spent = sum(a.prompt + a.token for a in own) * NANO
            wait = sum(a.prompt_between + a.token_between for a in own) * NANO
            found.append(
                {
                    "rank": shard.rank,
                    "host": self.hosts[shard.rank],
                    "stage": shard.stage,
                    "memory_bytes": own[-1].peak_rss if own else 0,
                    "tok_s": sum(rows for _, _, rows, _ in reports) / seconds,
                    "busy": min(1.0, max(0.0, spent - wait) / seconds),
                    "wait": min(1.0, wait / seconds),
                }
            )
        return found


def hosts_of(comm: Communicator) -> list[str]:
    """Names of the ranks' machines, empty where the transport does not know them."""
    known = getattr(comm, "hosts", [b""] * comm.size)
    return [host.rstrip(b"\0").decode(errors="replace").partition(" ")[0] for host in known]
