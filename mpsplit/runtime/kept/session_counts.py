"""How much is kept of sessions, for whom, and what has to go.

In: sessions as they are saved and used. Out: folders to be given up. Invariant: it knows what is
there without looking at the disk.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True)
class KeptLimits:
    """`sessions` and `bytes`, of all ranks together, of one owner; `seconds` since a session was
    used for the last time."""

    sessions: int = 64
    bytes: int = 4 << 30
    seconds: float = 3600.0


@dataclass(frozen=True)
class KeptSession:
    bytes: int
    used: float  # time.time()


def owner_of(folder: str) -> str:
    return folder.rpartition("/")[0]


class SessionCounts:
    def __init__(self, limits: KeptLimits):
        self.limits = limits
        self.sessions: OrderedDict[str, KeptSession] = OrderedDict()  # by folder, the longest unused first

    def fill(self, found: dict[str, KeptSession]) -> None:
        """What is there at the start."""
        self.sessions = OrderedDict(sorted(found.items(), key=lambda item: item[1].used))

    def put(self, folder: str, size: int, now: float) -> None:
        self.sessions[folder] = KeptSession(size, now)
        self.sessions.move_to_end(folder)

    def use(self, folder: str, now: float) -> None:
        if folder in self.sessions:
            self.put(folder, self.sessions[folder].bytes, now)

    def drop(self, folder: str) -> None:
        self.sessions.pop(folder, None)

    def too_old(self, now: float) -> list[str]:
        old = []
        for folder, session in self.sessions.items():
            if session.used >= now - self.limits.seconds:
                break
            old.append(folder)
        return old

    def to_give_up(self, folder: str, size: int) -> list[str]:
        """Others of its owner, so that a session of this size has room."""
        others = [other for other in self.sessions if other != folder and owner_of(other) == owner_of(folder)]
        left = sum(self.sessions[other].bytes for other in others)
        given_up: list[str] = []
        for other in others:
            if len(others) - len(given_up) < self.limits.sessions and left + size <= self.limits.bytes:
                break
            left -= self.sessions[other].bytes
            given_up.append(other)
        return given_up
