"""The communicator that mpi4py makes, which needs no compiler.

In: mpi4py's communicator. Out: the same interface, over messages between two ranks
(mpi_messages.py). Invariant: a sum takes the tree of extensions/comm/collectives.cpp, so that it
has the same bits. Importing this file is free; making an `Mpi` needs mpi4py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mpsplit.comm.alone import Alone
from mpsplit.comm.json_wire import exchanged
from mpsplit.comm.link_counts import nothing
from mpsplit.comm.mpi_messages import MpiMessages
from mpsplit.comm.timeout import timeout


class Mpi:
    """`members`: position in the group -> rank in the world; `hosts`: by rank in the world, the
    first rank of its host."""

    def __init__(self, messages: MpiMessages, members: tuple[int, ...], hosts: Sequence[int]):
        self.messages, self.members, self.leads = messages, members, hosts
        self.rank, self.size = members.index(messages.rank), len(members)
        self.bytes_sent, self.seconds, self.passed = 0, 0.0, nothing(messages.size)
        own_host = [hosts[rank] for rank in members]
        self.local_size = own_host.count(own_host[self.rank])
        self.host_lead = own_host.index(own_host[self.rank]) == self.rank

    @classmethod
    def over(cls, communicator: Any) -> Mpi:
        """All ranks of mpi4py's communicator together."""
        from mpi4py import MPI

        host = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        lead, hosts = np.array([communicator.rank]), np.empty(communicator.size, np.int64)
        host.Bcast(lead, 0)
        communicator.Allgather(lead, hosts)
        host.Free()
        return cls(MpiMessages(communicator, timeout()), tuple(range(communicator.size)), hosts.tolist())

    @property
    def timeout(self) -> float:
        return self.messages.timeout

    @property
    def waits_for(self) -> list[int | None]:
        return [rank if rank >= 0 else None for rank in self.messages.waits_for]

    def all_reduce(self, x: np.ndarray) -> None:
        with self._counted(x.nbytes):
            other = np.empty_like(x)
            ranks = 1 << (self.size.bit_length() - 1)
            partner = self.rank + ranks if self.rank < ranks else self.rank - ranks
            if self.rank >= ranks:
                self._move(x, partner)
                self._move(into=x, source=partner)
                return
            if partner < self.size:
                self._move(into=other, source=partner)
                np.add(x, other, out=x)
            apart = ranks // 2
            while apart:
                peer = self.rank ^ apart
                self._move(x, peer, other, peer)
                np.add(*((x, other) if self.rank < peer else (other, x)), out=x)
                apart //= 2
            if partner < self.size:
                self._move(x, partner)

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        with self._counted(x.nbytes):
            return np.concatenate(self._gathered(x), axis=-1)

    def broadcast(self, x: np.ndarray, root: int) -> None:
        """A binomial tree below the root."""
        with self._counted(x.nbytes if self.rank == root else 0):
            place = (self.rank - root) % self.size
            apart = 1
            while apart < self.size and not place & apart:
                apart *= 2
            if apart < self.size:
                self._move(into=x, source=(self.rank - apart) % self.size)
            while apart := apart // 2:
                if place + apart < self.size:
                    self._move(x, (self.rank + apart) % self.size)

    def send(self, x: np.ndarray, peer: int) -> None:
        with self._counted(x.nbytes):
            self._move(np.ascontiguousarray(x), peer)

    def recv(self, x: np.ndarray, peer: int) -> None:
        with self._counted(0):
            self._move(into=x, source=peer)

    def exchange(self, value: Any) -> list[Any]:
        with self._as_long_as_it_takes():
            return exchanged(value, self._gathered)

    def group(self, ranks: tuple[int, ...]) -> Mpi | Alone:
        if len(ranks) == 1:
            return Alone()
        return Mpi(self.messages, tuple(self.members[rank] for rank in ranks), self.leads)

    def wait(self) -> None:
        """After k rounds everybody knows of 2^k others that they are here."""
        out, into, apart = np.zeros(1, np.uint8), np.zeros(1, np.uint8), 1
        with self._as_long_as_it_takes():
            while apart < self.size:
                self._move(out, (self.rank + apart) % self.size, into, (self.rank - apart) % self.size)
                apart *= 2

    def tell(self, x: np.ndarray) -> None:
        self.broadcast(x, 0)

    def listen(self, x: np.ndarray) -> None:
        with self._as_long_as_it_takes():
            self.broadcast(x, 0)

    def last_words(self, why: str) -> None:
        self.messages.tell_last_words(why)

    def _gathered(self, x: np.ndarray) -> np.ndarray:
        """[size, ...]: round the ring, each step passes on the block that came last."""
        parts = np.empty((self.size, *x.shape), x.dtype)
        parts[self.rank] = x
        right, left = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        for step in range(self.size - 1):
            self._move(parts[self.rank - step], right, parts[left - step], left)
        return parts

    def _move(
        self, out: np.ndarray | None = None, to: int = 0, into: np.ndarray | None = None, source: int = 0
    ) -> None:
        self.messages.move(
            out if out is not None and out.size else None, self.members[to],
            into if into is not None and into.size else None, self.members[source],
        )  # fmt: skip

    @contextmanager
    def _counted(self, sent: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.bytes_sent += sent
        self.seconds += time.perf_counter() - began

    @contextmanager
    def _as_long_as_it_takes(self) -> Iterator[None]:
        self.messages.resting = True
        try:
            yield
        finally:
            self.messages.resting = False
