"""Requests that wait, and whose turn it is.

In: requests of several owners, from any thread. Out: one at a time, from the owners by turns.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from mpsplit.runtime.loop.live_request import LiveRequest
from mpsplit.runtime.loop.loop_protocol import Full


class WaitingQueue:
    """Not locked by itself: the token loop does."""

    def __init__(self, most: int):
        self.most = most
        self.owners: OrderedDict[str, deque[LiveRequest]] = OrderedDict()
        self.returned: deque[LiveRequest] = deque()  # they ran already, and had to make room

    def __len__(self) -> int:
        return len(self.returned) + sum(map(len, self.owners.values()))

    def add(self, one: LiveRequest) -> None:
        if (waiting := len(self)) >= self.most:
            raise Full(f"{waiting} requests wait already, the most that may; ask again later")
        self.owners.setdefault(one.request.owner, deque()).append(one)

    def put_back(self, one: LiveRequest) -> None:
        self.returned.appendleft(one)

    def first(self) -> LiveRequest | None:
        """Whose turn it is."""
        waiting = self.returned or next(iter(self.owners.values()), None)
        return waiting[0] if waiting else None

    def take(self) -> LiveRequest:
        """The first one; its owner is the last in turn then."""
        if self.returned:
            return self.returned.popleft()
        owner, waiting = self.owners.popitem(last=False)
        one = waiting.popleft()
        if waiting:
            self.owners[owner] = waiting
        return one

    def remove(self, one: LiveRequest) -> None:
        if one in self.returned:
            self.returned.remove(one)
            return
        waiting = self.owners[one.request.owner]
        waiting.remove(one)
        if not waiting:
            del self.owners[one.request.owner]

    def take_cancelled(self) -> list[LiveRequest]:
        found = [one for waiting in (self.returned, *self.owners.values()) for one in waiting if one.cancelled]
        for one in found:
            self.remove(one)
        return found

    def take_all(self) -> list[LiveRequest]:
        found = []
        while self.first():
            found.append(self.take())
        return found
