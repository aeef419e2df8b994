"""The ranks of a pipeline, for a server: bursts of inputs, and between them rest.

In: a PipelineRun on every rank. Out: on rank 0 outputs, and what each rank spent.

A burst is inputs one after the other until there are no more for now. Between two of them the
others rest in `listen`, as long as it takes, until rank 0 tells them what comes next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np

from mpsplit.runtime.account.account import Account, peak_rss_bytes
from mpsplit.runtime.loop.faults import telling_all
from mpsplit.runtime.pipeline.nets.stage_net import Arrays
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun


class Next(IntEnum):
    """What rank 0 tells the others between bursts."""

    END = 0
    BURST = 1
    REPORT = 2


class Bursts:
    def __init__(self, run: PipelineRun):
        self.run, self.comm = run, run.comm
        self._took = self._between = 0  # nanoseconds of bursts, and of them between ranks
        self._reported = self._so_far()

    def lead(self, inputs: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]:
        """On rank 0: the outputs of each input, in their order."""
        self._tell(Next.BURST)
        with self._counted():
            yield from self.run.lead(inputs)
            self.run.end()

    def report(self) -> tuple[Account, ...]:
        """On rank 0: what each rank spent since the last report."""
        self._tell(Next.REPORT)
        return self._report()

    def end(self) -> None:
        self._tell(Next.END)

    def follow(self) -> None:
        """On the other ranks, until rank 0 ends. Why one ends before that is told to all, for
        clients hear of it."""
        with telling_all(self.comm):
            while (order := self._heard()) != Next.END:
                if order == Next.BURST:
                    with self._counted():
                        self.run.follow()
                else:
                    self._report()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        began, inside = time.perf_counter_ns(), self.comm.seconds
        yield
        self._took += time.perf_counter_ns() - began
        self._between += int((self.comm.seconds - inside) * 1e9)

    def _tell(self, order: Next) -> None:
        self.comm.tell(np.array([order], np.int64))

    def _heard(self) -> int:
        order = np.empty(1, np.int64)
        self.comm.listen(order)
        return int(order[0])

    def _report(self) -> tuple[Account, ...]:
        mine = self._so_far() - self._reported
        mine[1] = peak_rss_bytes()  # as an Account has it
        rows = self.comm.all_gather(mine).reshape(self.comm.size, -1)
        self._reported = self._so_far()
        return tuple(map(Account.unpack, rows))

    def _so_far(self) -> np.ndarray:
        comm = self.comm
        return Account(comm.bytes_sent, 0, self._took, self._between, passed=comm.passed).pack()
