"""Batches of inputs in, results out, for a server: several batches at once.

It runs on rank 0; the others follow (bursts.py).

The batches that run give one input each by turns, so that a short one is not behind a long one.
What is made of an input's outputs is made here at once, for outputs may be large.

What fails, ends what faults.py says: a batch alone where it was its own work, its listener or what
it made of outputs; all where the ranks were at work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mpsplit.errors import MpsplitError, RunError
from mpsplit.runtime.loop.any_loop import REPORTED, AnyLoop
from mpsplit.runtime.loop.faults import LOG, nobodys, told
from mpsplit.runtime.loop.loop_protocol import LoopLoad, Ticket
from mpsplit.runtime.pipeline.bursts import Bursts
from mpsplit.runtime.pipeline.nets.stage_net import Arrays
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun


@dataclass(frozen=True)
class Batch:
    """`read`: what is wanted of an input's outputs. The `owner`s of batches have turns."""

    inputs: tuple[Arrays, ...]
    read: Callable[[Arrays], Any]
    owner: str = ""


@dataclass(frozen=True)
class Results:
    """One of each input, or of those before it was cancelled."""

    values: tuple[Any, ...]
    cancelled: bool = False


# hears exactly once of its batch, in the loop's thread, and must not wait
BatchListener = Callable[[Results | MpsplitError], None]


class LiveBatch:
    """A batch while it waits and runs."""

    def __init__(self, request: Batch, listener: BatchListener):
        self.request, self.listener = request, listener
        self.given = 0  # inputs on their way or back
        self.values: list[Any] = []
        self.cancelled = self.ended = False

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def has_more(self) -> bool:
        return not self.ended and self.given < len(self.request.inputs)

    def take(self, outputs: Arrays) -> None:
        """Of the next input; they come back in their order."""
        if self.ended:
            return
        try:
            self.values.append(self.request.read(outputs))
            if len(self.values) == len(self.request.inputs):
                self._end(cancelled=False)
        except Exception as wrong:
            self.fail(wrong)

    def leave(self) -> None:
        """It was cancelled, and gives up its place."""
        if not self.ended:
            try:
                self._end(cancelled=True)
            except Exception as wrong:
                self.fail(wrong)

    def _end(self, cancelled: bool) -> None:
        self.ended = True
        self.listener(Results(tuple(self.values), cancelled))

    def fail(self, wrong: Exception) -> None:
        """Its listener hears what ended it. Where that fails too, nobody is left to tell."""
        self.ended = True
        try:
            self.listener(told(wrong))
        except Exception:
            LOG.exception("a listener did not hear the end of its batch")


class StageLoop(AnyLoop[LiveBatch]):
    """`most` batches run at once, and `waiting` wait."""

    def __init__(self, run: PipelineRun, most: int = 8, waiting: int = 64):
        super().__init__(run.comm, range(run.comm.size), waiting)
        self.run, self.most, self.bursts = run, most, Bursts(run)
        self.running: deque[LiveBatch] = deque()  # whose turn it is, first
        self.tokens = 0  # since the last report
        self._flying: deque[LiveBatch] = deque()  # an entry an input, in their order

    # -- from any thread --------------------------------------------------------------------------

    def submit(self, batch: Batch, listener: BatchListener) -> Ticket:
        if not batch.inputs:
            raise RunError("there is no input; give at least one")
        for given in batch.inputs:
            self.run.length_of(given)
        return self._take_in(LiveBatch(batch, listener))

    def load(self) -> LoopLoad:
        running = sum(not live.cancelled for live in list(self.running))
        return LoopLoad(running, self._waiting.wanted, 0, 0, 0, 0)

    # -- rank 0 -----------------------------------------------------------------------------------

    def end(self) -> None:
        """No more batches."""
        self.bursts.end()

    def _work_on(self) -> None:
        self._burst()
        if self.ledger.age > REPORTED:
            self._report()
        self.pulse.turned(time.monotonic(), stepped=False)

    def _busy(self) -> bool:
        return bool(self.running)

    def _unanswered(self) -> list[LiveBatch]:
        return [live for live in dict.fromkeys([*self.running, *self._flying]) if not live.ended]

    def _burst(self) -> None:
        """What there is to do, until there is no more or a report is due."""
        first = self._next()
        if first is None:
            return
        began = time.monotonic()
        for outputs in self.bursts.lead(self._inputs(first)):
            self._flying.popleft().take(outputs)
            self._drop_ended()
            self.pulse.turned(began, stepped=True)
            began = time.monotonic()

    def _inputs(self, first: LiveBatch) -> Iterator[Arrays]:
        live: LiveBatch | None = first
        while live is not None:
            given = live.request.inputs[live.given]
            live.given += 1
            self._flying.append(live)
            self.tokens += self.run.length_of(given)
            yield given
            live = self._next() if self.ledger.age <= REPORTED else None

    def _next(self) -> LiveBatch | None:
        """Whose input goes in next; who has left gives up its place first."""
        with self._changed:
            cancelled = self._waiting.take_cancelled() + [live for live in self.running if live.cancelled]
        for live in cancelled:
            live.leave()
        self._drop_ended()
        with self._changed:
            while len(self.running) < self.most and self._waiting:
                self.running.append(self._waiting.take())
        for _ in range(len(self.running)):
            live = self.running[0]
            self.running.rotate(-1)
            if live.has_more:
                return live
        return None

    def _drop_ended(self) -> None:
        if any(live.ended for live in self.running):
            self.running = deque(live for live in self.running if not live.ended)

    def _report(self) -> None:
        accounts = self.bursts.report()
        self.pulse.answered()
        with nobodys():
            self.ledger.add(accounts, self.tokens)
        self.tokens = 0
