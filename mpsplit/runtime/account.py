"""What requests cost one rank: bytes, memory, seconds. In: an engine, stepped through here. Out: an Account, as int64 for the wire.

Prompts and single tokens are counted apart, and each as the whole step and the part of it between ranks, waiting for peers included.
extensions/rank/follow.cpp counts the same.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.engine import Engine, Part


@dataclass(frozen=True)
class Account:
    """Bytes handed to the transport, bytes of memory at the peak, and nanoseconds."""

    sent: int = 0
    peak_rss: int = 0
    prompt: int = 0
    prompt_between: int = 0
    token: int = 0
    token_between: int = 0


def together(a: Account, b: Account) -> Account:
    """What was spent in both, and the higher peak."""
    sums = (x + y for x, y in zip(astuple(a), astuple(b), strict=True))
    return replace(Account(*sums), peak_rss=max(a.peak_rss, b.peak_rss))


class Counted:
    """An engine whose steps are counted."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._forget()

    def batch(self, tokens: Sequence[int], parts: Sequence[Part]) -> np.ndarray:
        inside, began = self.engine.seconds, time.perf_counter_ns()
        logits = self.engine.batch(tokens, parts)
        spent = self.spent[len(tokens) == len(parts)]
        spent[0] += time.perf_counter_ns() - began
        spent[1] += int((self.engine.seconds - inside) * 1e9)
        return logits

    def report(self, comm: Communicator) -> list[Account]:
        """All ranks together: everybody's account since the last report."""
        mine = Account(self.engine.bytes_sent - self.sent, peak_rss_bytes(), *self.spent[False], *self.spent[True])
        self._forget()
        return [Account(*row) for row in comm.all_gather(np.array(astuple(mine))).reshape(comm.size, -1).tolist()]

    def _forget(self) -> None:
        self.sent = self.engine.bytes_sent
        self.spent = {False: [0, 0], True: [0, 0]}  # by whether it was one token a request: [the step, between ranks]


def peak_rss_bytes() -> int:
    """The most memory this process ever held, as the kernel counts it (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
