"""Ranks talking to each other: one small interface, numpy arrays in and out. The ground that both halves stand on.

`Alone` is the one-rank stand-in, `Mpi` the real thing. mpi4py is imported only when there are peers, because importing it
starts MPI. Collectives act on the last axis and count the payload bytes that this rank handed over.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any, NoReturn, Protocol

import numpy as np


class Communicator(Protocol):
    rank: int
    size: int
    bytes_sent: int
    local_size: int  # ranks on this host
    host_lead: bool  # one rank of each host, which writes what the ranks of the host share

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
        """Every rank's value, in order; for plain objects off the hot path."""

    def group(self, ranks: tuple[int, ...]) -> Communicator:
        """A communicator of these ranks alone; all of them, and only they, call."""

    def tell(self, value: Any) -> None:
        """Gives every other rank a plain object, which they get from `listen`."""

    def listen(self) -> Any:
        """Waits for what rank 0 tells, without burning the core."""


class Alone:
    """One rank: every collective is the identity."""

    rank, size, bytes_sent, local_size, host_lead = 0, 1, 0, 1, True

    def all_reduce(self, x: np.ndarray) -> None:
        return None

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        return x

    def broadcast(self, x: np.ndarray, root: int) -> None:
        assert root == 0, f"rank {root} in a group of 1"

    def send(self, x: np.ndarray, peer: int) -> None:
        raise AssertionError(f"send to rank {peer} in a group of 1")

    def recv(self, x: np.ndarray, peer: int) -> None:
        raise AssertionError(f"receive from rank {peer} in a group of 1")

    def exchange(self, value: Any) -> list[Any]:
        return [value]

    def group(self, ranks: tuple[int, ...]) -> Communicator:
        assert ranks == (0,), f"a group of ranks {ranks} in a world of 1"
        return self

    def tell(self, value: Any) -> None:
        return None

    def listen(self) -> Any:
        raise AssertionError("one rank alone has nobody to listen to")


class Mpi:
    """mpi4py underneath. Buffers go as they are; plain objects are pickled."""

    TOLD = 7  # the tag of what `tell` sends

    def __init__(self, communicator: Any):
        from mpi4py import MPI

        self.mpi, self.in_place = communicator, MPI.IN_PLACE
        self.rank, self.size = communicator.rank, communicator.size
        self.bytes_sent = 0
        host = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_size, self.host_lead = host.size, host.rank == 0
        host.Free()

    def all_reduce(self, x: np.ndarray) -> None:
        self.mpi.Allreduce(self.in_place, x)
        self.bytes_sent += x.nbytes

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        parts = np.empty((self.size, *x.shape), x.dtype)
        self.mpi.Allgather(np.ascontiguousarray(x), parts)
        self.bytes_sent += x.nbytes
        return np.concatenate(parts, axis=-1)

    def broadcast(self, x: np.ndarray, root: int) -> None:
        self.mpi.Bcast(x, root)
        self.bytes_sent += x.nbytes if self.rank == root else 0

    def send(self, x: np.ndarray, peer: int) -> None:
        self.mpi.Send(np.ascontiguousarray(x), peer)
        self.bytes_sent += x.nbytes

    def recv(self, x: np.ndarray, peer: int) -> None:
        self.mpi.Recv(x, peer)

    def exchange(self, value: Any) -> list[Any]:
        # wait in Python: a rank inside MPI hears no signal, burns its core, and could not clean up when another one fails
        everybody_is_here = self.mpi.Ibarrier()
        while not everybody_is_here.Test():
            time.sleep(0.0005)
        return self.mpi.allgather(value)

    def group(self, ranks: tuple[int, ...]) -> Communicator:
        return Mpi(self.mpi.Create_group(self.mpi.group.Incl(ranks))) if len(ranks) > 1 else Alone()

    def tell(self, value: Any) -> None:
        for peer in range(self.size):
            if peer != self.rank:
                self.mpi.send(value, peer, self.TOLD)

    def listen(self) -> Any:
        while not self.mpi.iprobe(0, self.TOLD):
            time.sleep(0.001)
        return self.mpi.recv(source=0, tag=self.TOLD)


def mpi_rank() -> int | None:
    """The rank that mpirun gave this process, None outside of it; known before MPI is started."""
    given = os.environ.get("OMPI_COMM_WORLD_RANK")
    return None if given is None else int(given)


def mpi_size() -> int:
    """How many ranks mpirun started, 1 outside of it."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))


@functools.cache
def world() -> Communicator:
    """All ranks. The first call is a collective one."""
    if mpi_size() == 1:
        return Alone()
    from mpi4py import MPI

    return Mpi(MPI.COMM_WORLD)


def end_all_ranks(code: int) -> NoReturn:
    """Ends this process without MPI_Finalize, which mpirun answers by ending the others, quieter than MPI_Abort does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
