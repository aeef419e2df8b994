"""Requests that wait, and whose turn it is.

In: requests of several owners, from any thread. Out: one at a time, from the owners by turns.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar

from mpsplit.runtime.loop.loop_protocol import Full


class Owned(Protocol):
    @property
    def owner(self) -> str: ...


class Waiting(Protocol):
    """A request that waits."""

    cancelled: bool

    @property
    def request(self) -> Owned: ...


L = TypeVar("L", bound=Waiting)


class WaitingQueue(Generic[L]):
    """Not locked by itself: the token loop does."""

    def __init__(self, most: int):
        self.most = most
        self.owners: OrderedDict[str, deque[L]] = OrderedDict()
        self.returned: deque[L] = deque()  # they ran already, and had to make room

    def __len__(self) -> int:
        return len(self.returned) + sum(map(len, self.owners.values()))

    @property
    def wanted(self) -> int:
        """How many somebody still waits for: who left gives up the place at once, also while the
        loop hangs."""
        return sum(not live.cancelled for waiting in self._queues() for live in waiting)

    def _queues(self) -> list[deque[L]]:
        return [self.returned.copy(), *(waiting.copy() for waiting in list(self.owners.values()))]

    def add(self, live: L) -> None:
        if (waiting := self.wanted) >= self.most:
            raise Full(f"{waiting} requests wait already, the most that may; ask again later")
        self.owners.setdefault(live.request.owner, deque()).append(live)

    def put_back(self, live: L) -> None:
        self.returned.appendleft(live)

    def first(self) -> L | None:
        """Whose turn it is."""
        waiting = self.returned or next(iter(self.owners.values()), self.returned)
        return waiting[0] if waiting else None

    def take(self) -> L:
        """The first one; its owner is the last in turn then."""
        if self.returned:
            return self.returned.popleft()
        owner, waiting = self.owners.popitem(last=False)
        live = waiting.popleft()
        if waiting:
            self.owners[owner] = waiting
        return live

    def remove(self, live: L) -> None:
        """Wherever it waits, if it does."""
        if live in self.returned:
            self.returned.remove(live)
        waiting = self.owners.get(live.request.owner, deque())
        if live in waiting:
            waiting.remove(live)
        if live.request.owner in self.owners and not waiting:
            del self.owners[live.request.owner]

    def take_cancelled(self) -> list[L]:
        cancelled = [live for waiting in (self.returned, *self.owners.values()) for live in waiting if live.cancelled]
        for live in cancelled:
            self.remove(live)
        return cancelled

    def take_all(self) -> list[L]:
        taken = []
        while self.first():
            taken.append(self.take())
        return taken
