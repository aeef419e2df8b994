"""The one interface between ranks: numpy arrays in and out.

Collectives act on the last axis and count the payload bytes that this rank handed over, and the
seconds until they were done.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Communicator(Protocol):
    rank: int
    size: int
    local_size: int  # ranks on this host
    host_lead: bool  # one rank of each host, which writes what the ranks of the host share

    @property
    def bytes_sent(self) -> int: ...

    @property
    def seconds(self) -> float:
        """Inside collectives so far, waiting for peers included."""

    @property
    def timeout(self) -> float:
        """Seconds that a rank is waited for; 0 for ever."""

    @property
    def waits_for(self) -> list[int | None]:
        """By rank of the world, whom it has waited for long, as it told the others. From any
        thread."""

    @property
    def passed(self) -> np.ndarray:
        """To each rank, and waits for it (link_counts.py); zeros where nothing is counted."""

    def all_reduce(self, x: np.ndarray) -> None:
        """Sums over the ranks, in place; the same bits on all of them."""

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        """[..., n] -> [..., size * n], in the order of the ranks."""

    def broadcast(self, x: np.ndarray, root: int) -> None:
        """Overwrites x with the root's."""

    def send(self, x: np.ndarray, peer: int) -> None: ...

    def recv(self, x: np.ndarray, peer: int) -> None:
        """Overwrites x with what `peer` sent."""

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in order; off the hot path. Who uses one looks at it first."""

    def group(self, ranks: tuple[int, ...]) -> Communicator:
        """A communicator of these ranks alone; all of them, and only they, call."""

    def wait(self) -> None:
        """Until all ranks are here, as long as it takes."""

    def tell(self, x: np.ndarray) -> None:
        """Rank 0: a broadcast that the others may have awaited for long, in `listen`."""

    def last_words(self, why: str) -> None:
        """By a rank that ends for a reason of its own: the waits of the others end with it."""

    def listen(self, x: np.ndarray) -> None:
        """Overwrites x with what rank 0 tells; waits as long as it takes, without burning
        the core."""
