"""What every loop on rank 0 has, whatever it answers: who waits, how it does, when it ends.

In: requests from any thread. Out: their places, figures, and `work` on the one thread that talks to
the other ranks. Invariant: once it is ending, nothing is taken in any more.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.account.ledger import Ledger, hosts_of
from mpsplit.runtime.loop.loop_protocol import Ending
from mpsplit.runtime.loop.pulse import LoopHealth, Pulse
from mpsplit.runtime.loop.waiting_queue import Waiting, WaitingQueue

# seconds after which the ranks are asked for their accounts; also if nobody runs, so that a rank is
# missed which has died or was stopped
REPORTED = 1.0
IDLE = 0.1  # seconds after which a loop with nothing to do looks whether it shall end


class Live(Waiting, Protocol):
    """A request that waits or runs."""

    def fail(self, wrong: Exception) -> None: ...


L = TypeVar("L", bound=Live)


class AnyLoop(ABC, Generic[L]):
    """`groups`: of each rank, which others it works beside."""

    def __init__(self, comm: Communicator, groups: Sequence[int], waiting: int):
        self.ledger = Ledger(groups, hosts_of(comm))
        self.pulse = Pulse(comm)
        self._waiting: WaitingQueue[L] = WaitingQueue(waiting)
        self._changed = threading.Condition(threading.RLock())  # signal handlers drain
        self._ending = False

    # -- from any thread --------------------------------------------------------------------------

    def _take_in(self, live: L) -> L:
        with self._changed:
            if self._ending:
                raise Ending("no new requests are taken, for this server is about to end; ask another")
            self._waiting.add(live)
            self._changed.notify()
        return live

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
        """No new requests from now on; one that is on its way in is answered."""
        with self._changed:
            self._ending = True

    # -- rank 0 -----------------------------------------------------------------------------------

    def work(self, until: threading.Event) -> None:
        """Answers what is submitted until then, and what was submitted before to its end."""
        try:
            self._report()  # so that there is something to see before the first request
            while not self._over(until):
                self._work_on()
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._busy() or until.is_set(), IDLE)
        except BaseException as wrong:
            with self._changed:
                self._ending = True
                left = [*self._unanswered(), *self._waiting.take_all()]
            for live in left:
                live.fail(RunError(f"the ranks stopped: {wrong}"))
            raise

    def _over(self, until: threading.Event) -> bool:
        """Whether all is answered; from then on nothing is taken."""
        with self._changed:
            over = until.is_set() and not (self._waiting or self._busy())
            self._ending = self._ending or over
            return over

    @abstractmethod
    def _work_on(self) -> None:
        """What there is to do for now."""

    @abstractmethod
    def _busy(self) -> bool:
        """Whether any request runs."""

    @abstractmethod
    def _unanswered(self) -> Iterable[L]:
        """Those that do not wait, and have not heard of their end."""

    @abstractmethod
    def _report(self) -> None:
        """Asks the ranks what they spent since the last report."""
