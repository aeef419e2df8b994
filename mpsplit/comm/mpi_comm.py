"""The communicator that mpi4py makes, which needs no compiler.

Importing this file is free; making an `Mpi` needs mpi4py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mpsplit.comm.alone import Alone
from mpsplit.comm.link_counts import nothing


class Mpi:
    """Buffers go as they are; plain objects are pickled."""

    def __init__(self, communicator: Any):
        from mpi4py import MPI

        self.mpi, self.in_place = communicator, MPI.IN_PLACE
        self.rank, self.size = communicator.rank, communicator.size
        self.bytes_sent, self.seconds, self.passed = 0, 0.0, nothing(communicator.size)
        host = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_size, self.host_lead = host.size, host.rank == 0
        host.Free()

    def all_reduce(self, x: np.ndarray) -> None:
        with self._counted(x.nbytes):
            self.mpi.Allreduce(self.in_place, x)

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        parts = np.empty((self.size, *x.shape), x.dtype)
        with self._counted(x.nbytes):
            self.mpi.Allgather(np.ascontiguousarray(x), parts)
        return np.concatenate(parts, axis=-1)

    def broadcast(self, x: np.ndarray, root: int) -> None:
        with self._counted(x.nbytes if self.rank == root else 0):
            self.mpi.Bcast(x, root)

    def send(self, x: np.ndarray, peer: int) -> None:
        with self._counted(x.nbytes):
            self.mpi.Send(np.ascontiguousarray(x), peer)

    def recv(self, x: np.ndarray, peer: int) -> None:
        with self._counted(0):
            self.mpi.Recv(x, peer)

    def exchange(self, value: Any) -> list[Any]:
        self.wait()
        return list(self.mpi.allgather(value))

    def group(self, ranks: tuple[int, ...]) -> Mpi | Alone:
        return Mpi(self.mpi.Create_group(self.mpi.group.Incl(ranks))) if len(ranks) > 1 else Alone()

    def wait(self) -> None:
        _patiently(self.mpi.Ibarrier())

    def tell(self, x: np.ndarray) -> None:
        with self._counted(x.nbytes):
            self.mpi.Ibcast(x, 0).Wait()

    def listen(self, x: np.ndarray) -> None:
        with self._counted(0):
            _patiently(self.mpi.Ibcast(x, 0))

    @contextmanager
    def _counted(self, sent: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.bytes_sent += sent
        self.seconds += time.perf_counter() - began


def _patiently(request: Any) -> None:
    """Waits in Python: a rank inside MPI hears no signal, burns its core, and could not clean up
    when another one fails."""
    while not request.Test():
        time.sleep(0.0005)
