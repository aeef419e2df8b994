"""What steps cost one rank: bytes, memory, time.

In: an engine, stepped through here. Out: an Account, as int64 for the wire.

Prompts and single tokens are counted apart, and each as the whole step and the part of it between
ranks, waiting for peers included. extensions/rank/follow.cpp counts the same.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.comm.link_counts import COLUMNS, NANO, Link, links_of, nothing
from mpsplit.runtime.engine.engine_protocol import SHARED_WORK, Engine, Numbers, Span
from mpsplit.runtime.engine.layer_kinds import KINDS

# of an Account, before its arrays
NUMBERS = ("sent", "peak_rss", "prompt", "prompt_between", "token", "token_between", *SHARED_WORK)


@dataclass(frozen=True, eq=False)
class Account:
    """Bytes handed to the transport, bytes of memory at the peak, nanoseconds.

    `work_...` is of several threads, as SHARED_WORK names it. `kinds` are nanoseconds by kind of
    layer, as far as the engine tells them. `passed` is what went to each rank
    (comm/link_counts.py)."""

    sent: int = 0
    peak_rss: int = 0
    prompt: int = 0
    prompt_between: int = 0
    token: int = 0
    token_between: int = 0
    work_shared: int = 0
    work_waited: int = 0
    work_alone: int = 0
    kinds: np.ndarray = field(default_factory=lambda: np.zeros(len(KINDS), np.int64))
    passed: np.ndarray = field(default_factory=lambda: nothing(0))

    @classmethod
    def unpack(cls, words: np.ndarray) -> Account:
        numbers, kinds, passed = np.split(words, [len(NUMBERS), len(NUMBERS) + len(KINDS)])
        named = dict(zip(NUMBERS, numbers.tolist(), strict=True))
        return cls(**named, kinds=kinds, passed=passed.reshape(-1, COLUMNS))

    def pack(self) -> np.ndarray:
        return np.concatenate([list(self._numbers.values()), self.kinds, self.passed.ravel()])

    def __add__(self, later: Account) -> Account:
        """What was spent in both, and the higher peak."""
        return replace(Account.unpack(self.pack() + later.pack()), peak_rss=max(self.peak_rss, later.peak_rss))

    def seconds(self) -> dict[str, float]:
        """By kind of layer, where there is something to tell."""
        return {kind: ns * NANO for kind, ns in zip(KINDS, self.kinds.tolist(), strict=True) if ns}

    def to_json(self, rank: int) -> dict:
        """Nanoseconds as they are, seconds where the name says so."""
        links = [asdict(link) for link in self.links(rank)]
        return {**self._numbers, "layers_s": self.seconds(), "links": links}

    @property
    def threads_short(self) -> float:
        """The part of the threads' common work in which one waited for another, or worked alone
        because something else used the cores."""
        return (self.work_waited + self.work_alone) / max(1, self.work_shared + self.work_alone)

    def links(self, rank: int) -> list[Link]:
        return links_of(rank, self.passed)

    @property
    def _numbers(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in NUMBERS}


class CountedEngine:
    """An engine whose steps are counted."""

    def __init__(self, engine: Engine, comm: Communicator):
        self.engine, self.comm = engine, comm
        # ns by whether it was one token a request: [the step, between ranks]
        self.took = {False: [0, 0], True: [0, 0]}
        self.reported = self._so_far()

    def batch(self, tokens: Numbers, spans: Sequence[Span]) -> np.ndarray:
        inside, began = self.engine.seconds, time.perf_counter_ns()
        logits = self.engine.batch(tokens, spans)
        took = self.took[len(tokens) == len(spans)]
        took[0] += time.perf_counter_ns() - began
        took[1] += int((self.engine.seconds - inside) * 1e9)
        return logits

    def report(self) -> tuple[Account, ...]:
        """All ranks together: everybody's account since the last report."""
        mine = self._so_far() - self.reported
        mine[1] = peak_rss_bytes()
        rows = self.comm.all_gather(mine).reshape(self.comm.size, -1)
        self.reported = self._so_far()
        return tuple(map(Account.unpack, rows))

    def _so_far(self) -> np.ndarray:
        engine, (prompt, between), (token, token_between) = self.engine, self.took[False], self.took[True]
        shared, waited, alone = engine.shared_work.tolist()
        account = Account(
            engine.bytes_sent, 0, prompt, between, token, token_between, shared, waited, alone,
            engine.spent, self.comm.passed,
        )  # fmt: skip
        return account.pack()


def peak_rss_bytes() -> int:
    """The most memory this process ever held, as the kernel counts it (ru_maxrss is in KiB on
    Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
