"""Messages between two ranks by mpi4py: extensions/comm/mpi_link.cpp and wait.cpp, without a
compiler.

In: bytes and peers. Out: bytes. Invariant: the rules of extensions/comm/comm.h. Who is waited for
answers within `timeout` seconds, unless this rank rests; a message has the length that is expected.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import numpy as np

from mpsplit.errors import RunError

SHORT = 64 << 10  # bytes
WHOLE, ANNOUNCED, PART = 1, 2, 3  # tags: of a short message, and of a long one
NO_LONGER = -1  # a word; else, from 0 on: for whom a rank waits; below: -2 - the rank that is silent
A_WORD, ENDED_WORD = 0, 1  # tags; with the second comes a text, as in extensions/comm/wait.h
MOST_LAST_WORDS = 400
SPINS, YIELDS = 2000, 20_000  # looks before a wait gives the core away, and before it sleeps between looks
SLEEP, LOOK = 0.0002, 0.1  # seconds
# shares of the limit: after how much of it the others are told, and what counts between two looks
# at most, so that who was stopped itself blames nobody for it
TOLD_AFTER = LONGEST_LOOK = 0.25


class MpiMessages:
    """All ranks of `communicator` together, on one of its own."""

    def __init__(self, communicator: Any, timeout: float):
        from mpi4py import MPI

        self.mpi, self._words, self.MPI = communicator.Dup(), communicator.Dup(), MPI
        self.rank, self.size, self.timeout, self.resting = communicator.rank, communicator.size, timeout, False
        self.waits_for = [NO_LONGER] * self.size
        self._place = np.empty(SHORT, np.uint8)  # of the next short message
        self._told: list[tuple[np.ndarray, Any]] = []  # MPI may read them later

    def move(self, out: np.ndarray | None, to: int, into: np.ndarray | None, source: int) -> None:
        """Sends and receives at once; crossed messages never block each other."""
        coming = None if into is None else self.mpi.Irecv(self._place, source, self.MPI.ANY_TAG)
        going = [] if out is None else self._sent(_bytes(out), to)
        if coming is not None and into is not None:
            self._take(coming, _bytes(into), source)
        for request in going:
            self._wait(request, to)

    def _sent(self, out: np.ndarray, to: int) -> list[Any]:
        if out.size <= SHORT:
            return [self.mpi.Isend(out, to, WHOLE)]
        return [self.mpi.Isend(np.array([out.size]), to, ANNOUNCED), self.mpi.Isend(out, to, PART)]

    def _take(self, coming: Any, into: np.ndarray, source: int) -> None:
        """What came, once it is as long as it has to be."""
        status = self.MPI.Status()
        self._wait(coming, source, status)
        announced = status.Get_tag() == ANNOUNCED
        length = int(self._place[:8].view(np.int64)[0]) if announced else status.Get_count(self.MPI.BYTE)
        if length != into.size:
            raise RunError(
                f"rank {source} sent {length} bytes where rank {self.rank} expected {into.size}; they are not in the"
                " same collective"
            )
        if announced:
            self._wait(self.mpi.Irecv(into, source, PART), source)
        else:
            into[:] = self._place[:length]

    def _wait(self, request: Any, peer: int, status: Any = None) -> None:
        """In Python: a rank inside MPI hears no signal and burns its core."""
        for _ in range(SPINS):
            if request.Test(status):
                return
        for _ in range(YIELDS):
            if request.Test(status):
                return
            os.sched_yield()
        waited, looked, told = 0.0, time.monotonic(), False
        while not request.Test(status):
            time.sleep(SLEEP)
            if (now := time.monotonic()) < looked + LOOK:
                continue
            waited, looked = waited + min(now - looked, LONGEST_LOOK * self.timeout), now
            self._hear()
            limit = 0 if self.resting else self.timeout
            if limit and not told and waited > TOLD_AFTER * limit:
                told = True
                self._tell(peer)
            if limit and waited > limit:
                silent = self._who_holds_up(peer)
                self._tell(-2 - silent)
                raise self._did_not_answer(silent)
        if told:
            self._tell(NO_LONGER)

    def _hear(self) -> None:
        """Words that have come. Who is silent ends everybody."""
        status, word = self.MPI.Status(), np.empty(1, np.int64)
        while self._words.Iprobe(self.MPI.ANY_SOURCE, A_WORD, status):
            self._words.Recv(word, status.Get_source(), A_WORD)
            if word[0] < NO_LONGER:
                raise self._did_not_answer(-2 - int(word[0]))
            self.waits_for[status.Get_source()] = int(word[0])
        if self._words.Iprobe(self.MPI.ANY_SOURCE, ENDED_WORD, status):
            text = np.empty(status.Get_count(self.MPI.BYTE), np.uint8)
            self._words.Recv(text, status.Get_source(), ENDED_WORD)
            raise RunError(f"rank {status.Get_source()} ended: {text.tobytes().decode('ascii', 'replace')}")

    def tell_last_words(self, why: str) -> None:
        text = np.frombuffer(" ".join(why.split()).encode("ascii", "replace")[:MOST_LAST_WORDS], np.uint8)
        with suppress(self.MPI.Exception):  # who is gone hears nothing
            self._tell_all(text, ENDED_WORD)

    def _tell(self, word: int) -> None:
        self._tell_all(np.array([word]), A_WORD)

    def _tell_all(self, told: np.ndarray, tag: int) -> None:
        self._told += [(told, self._words.Isend(told, rank, tag)) for rank in range(self.size) if rank != self.rank]

    def _who_holds_up(self, peer: int) -> int:
        """The end of the chain of ranks that wait for each other; `peer` in a circle."""
        found = peer
        for _ in range(self.size):
            following = self.waits_for[found]
            if following < 0:
                return found
            if following in (peer, self.rank):
                break
            found = following
        return peer

    def _did_not_answer(self, rank: int) -> RunError:
        if rank == self.rank:
            return RunError(
                f"the other ranks waited for this one for {self.timeout:g} s and gave it up; was it stopped? Start all"
                " ranks again"
            )
        return RunError(
            f"rank {rank} did not answer for {self.timeout:g} s (seen by rank {self.rank} over mpi4py); look for its"
            " own message, and start all ranks again; MPSPLIT_TIMEOUT is how many seconds a rank may take"
        )


def _bytes(x: np.ndarray) -> np.ndarray:
    assert x.flags.c_contiguous, "the array does not lie in memory in one piece; pass np.ascontiguousarray of it"
    return x.reshape(-1).view(np.uint8)
