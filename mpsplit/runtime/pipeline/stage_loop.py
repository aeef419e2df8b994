"""Batches of inputs in, results out, for a server: several batches at once.

It runs on rank 0; the others follow (bursts.py).

The batches that run give one input each by turns, so that a short one is not behind a long one.
What is made of an input's outputs is made here at once, for outputs may be large.

What fails, ends what faults.py says: a batch alone where it was its own work, its listener or what
it made of outputs; all where the ranks were at work.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mpsplit.errors import MpsplitError, RunError
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.account.ledger import Ledger, hosts_of
from mpsplit.runtime.loop.faults import LOG, nobodys, told
from mpsplit.runtime.loop.loop_protocol import Ending, LoopLoad, Ticket
from mpsplit.runtime.loop.pulse import LoopHealth, Pulse
from mpsplit.runtime.loop.waiting_queue import WaitingQueue
from mpsplit.runtime.pipeline.bursts import Bursts
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun
from mpsplit.runtime.pipeline.stage_net import Arrays

REPORTED = 1.0  # seconds after which the ranks are asked for their accounts, also if nobody runs
IDLE = 0.1  # seconds after which a loop with nothing to do looks whether it shall end


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


class StageLoop:
    """`most` batches run at once, and `waiting` wait."""

    def __init__(self, run: PipelineRun, most: int = 8, waiting: int = 64):
        self.run, self.most, self.bursts = run, most, Bursts(run)
        self.ledger = Ledger(range(run.comm.size), hosts_of(run.comm))
        self.pulse = Pulse(run.comm)
        self.running: deque[LiveBatch] = deque()  # whose turn it is, first
        self.tokens = 0  # since the last report
        self._flying: deque[LiveBatch] = deque()  # an entry an input, in their order
        self._waiting: WaitingQueue[LiveBatch] = WaitingQueue(waiting)
        self._changed = threading.Condition(threading.RLock())  # signal handlers drain
        self._ending = False

    # -- from any thread --------------------------------------------------------------------------

    def submit(self, batch: Batch, listener: BatchListener) -> Ticket:
        if not batch.inputs:
            raise RunError("there is no input; give at least one")
        for given in batch.inputs:
            self.run.length_of(given)
        live = LiveBatch(batch, listener)
        with self._changed:
            if self._ending:
                raise Ending("no new requests are taken, for this server is about to end; ask another")
            self._waiting.add(live)
            self._changed.notify()
        return live

    def load(self) -> LoopLoad:
        running = sum(not live.cancelled for live in list(self.running))
        return LoopLoad(running, self._waiting.wanted, 0, 0, 0, 0)

    @property
    def most_waiting(self) -> int:
        return self._waiting.most

    def health(self) -> LoopHealth:
        return self.pulse.health()

    def ranks_now(self) -> list[dict]:
        """What each rank does of late (ledger.py)."""
        return self.ledger.rows()

    def spent(self) -> tuple[Account, ...]:
        """What each rank spent since the start; nothing before the first report."""
        return self.ledger.total

    def drain(self) -> None:
        """No new batches from now on; one that is on its way in is answered."""
        with self._changed:
            self._ending = True

    # -- rank 0 -----------------------------------------------------------------------------------

    def work(self, until: threading.Event) -> None:
        """Answers what is submitted until then, and what was submitted before to its end."""
        try:
            self._report()  # so that there is something to see before the first batch
            while not self._over(until):
                self._burst()
                if self.ledger.age > REPORTED:
                    self._report()
                self.pulse.turned(time.monotonic(), stepped=False)
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self.running or until.is_set(), IDLE)
        except BaseException as wrong:
            with self._changed:
                self._ending = True
                left = [*self.running, *self._flying, *self._waiting.take_all()]
            for live in dict.fromkeys(left):
                if not live.ended:
                    live.fail(RunError(f"the ranks stopped: {wrong}"))
            raise

    def end(self) -> None:
        """No more batches."""
        self.bursts.end()

    def _over(self, until: threading.Event) -> bool:
        """Whether all is answered; from then on nothing is taken."""
        with self._changed:
            over = until.is_set() and not (self._waiting or self.running)
            self._ending = self._ending or over
            return over

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
