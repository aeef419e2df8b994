"""What the server needs of the loop on rank 0, so that tests can put another in its place.

Invariant: one thread, the one that called `work`, talks to the other ranks; the rest may be called
from any thread and returns at once.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from mpsplit.runtime.account.account import Account
from mpsplit.runtime.loop.loop_protocol import Listener, LoopLoad, Request, Ticket
from mpsplit.runtime.loop.pulse import LoopHealth
from mpsplit.runtime.talk.text import Text


class Facts(Protocol):
    @property
    def context(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...


class TurningLoop(Protocol):
    """What is the same of every loop, whatever it answers."""

    def load(self) -> LoopLoad: ...

    @property
    def most_waiting(self) -> int:
        """How many requests may wait."""

    def health(self) -> LoopHealth: ...

    def ranks_now(self) -> list[dict]:
        """What each rank does of late, as runtime/account/ledger.py says it."""

    def spent(self) -> tuple[Account, ...]:
        """What each rank spent since the start."""

    def drain(self) -> None:
        """No new requests from now on."""

    def work(self, until: threading.Event) -> None:
        """Answers until `until` is set and nothing runs or waits."""

    def end(self) -> None:
        """Tells the other ranks to leave."""


class ServedLoop(TurningLoop, Protocol):
    """A token loop."""

    text: Text | None
    eos: tuple[int, ...]

    @property
    def facts(self) -> Facts: ...

    @property
    def package(self) -> Path | None:
        """Where prefixes and sessions are kept."""

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Raises Full, Ending, or a RunError that says what is wrong with the request."""
