"""What each rank did in all, and of late: how much of the time it computes, how long it waits for
others, who makes them wait.

In: accounts (account.py) as they are reported. Out: their sum, and a row a rank, for metrics, the
page and `mpsplit top`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from functools import reduce
from operator import add

from mpsplit.comm import Communicator
from mpsplit.comm.link_counts import NANO, WAITS, quantile
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.account.straggler import NOTABLE, straggler

WINDOW = 5.0  # seconds that "of late" means


class Ledger:
    """`stages`: of each rank that it is of; `hosts`: the name of each rank's machine."""

    def __init__(self, stages: Sequence[int], hosts: Sequence[str]):
        self.stages, self.hosts = stages, hosts
        self.total: tuple[Account, ...] = ()
        self._last = time.monotonic()
        # when, over how long, what
        self._of_late: deque[tuple[float, float, int, tuple[Account, ...]]] = deque()

    @property
    def age(self) -> float:
        """Seconds since the last report."""
        return time.monotonic() - self._last

    def add(self, accounts: tuple[Account, ...], rows: int) -> None:
        """`rows`: tokens that were fed meanwhile, of prompts and of answers."""
        now = time.monotonic()
        self.total = tuple(map(add, self.total, accounts)) if self.total else accounts
        self._of_late.append((now, now - self._last, rows, accounts))
        self._last = now
        while now - self._of_late[0][0] > WINDOW:
            self._of_late.popleft()

    def rows(self) -> list[dict]:
        """`memory_bytes` at the peak; `tok_s` of prompts and answers; `busy` and `wait` are shares
        of the time, `threads_short` of the threads' common work (account.py); quantiles of all its
        waits for others; `straggler`: whether it makes the others wait."""
        reports = list(self._of_late)
        accounts = [reduce(add, each) for each in zip(*(accounts for *_, accounts in reports), strict=True)]
        seconds = max(sum(over for _, over, *_ in reports), 1e-3) + (self.age if self.age > 2 else 0)
        late = straggler(accounts)
        late = late if late and late.seconds > NOTABLE * seconds else None
        table = []
        for rank, stage in enumerate(self.stages):
            account = accounts[rank] if accounts else Account()
            spent, wait = (
                (account.prompt + account.token) * NANO,
                (account.prompt_between + account.token_between) * NANO,
            )
            waits = account.passed[:, WAITS:].sum(0)
            table.append(
                {
                    "rank": rank,
                    "host": self.hosts[rank],
                    "stage": stage,
                    "memory_bytes": account.peak_rss,
                    "tok_s": sum(rows for _, _, rows, _ in reports) / seconds,
                    "busy": min(1.0, max(0.0, spent - wait) / seconds),
                    "wait": min(1.0, wait / seconds),
                    "threads_short": account.threads_short,
                    "wait_p50_s": quantile(waits, 0.5),
                    "wait_p99_s": quantile(waits, 0.99),
                    "straggler": late is not None and late.rank == rank,
                }
            )
        return table


def hosts_of(comm: Communicator) -> list[str]:
    """Names of the ranks' machines, empty where the transport does not know them."""
    known = getattr(comm, "hosts", [b""] * comm.size)
    return [host.rstrip(b"\0").decode(errors="replace").partition(" ")[0] for host in known]
