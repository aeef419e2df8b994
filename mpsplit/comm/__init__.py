"""Ranks talking to each other: one small interface, numpy arrays in and out. The ground that both halves stand on.

`Alone` is the one-rank stand-in, `Native` our own C++ (mpsplit.native builds it), `Mpi` what mpi4py does where that was not
built. mpi4py is imported only when there are peers, because importing it starts MPI. Collectives act on the last axis and
count the payload bytes that this rank handed over, and the seconds until they were done.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, NoReturn, Protocol

import numpy as np

from mpsplit.comm.alone import Alone
from mpsplit.comm.mpi import Mpi
from mpsplit.comm.native import Native
from mpsplit.errors import RunError
from mpsplit.native import load as load_native

__all__ = ["Alone", "Communicator", "Mpi", "Native", "end_all_ranks", "mpi_rank", "mpi_size", "world"]


class Communicator(Protocol):
    rank: int
    size: int
    bytes_sent: int
    seconds: float  # inside collectives so far, waiting for peers included
    local_size: int  # ranks on this host
    passed: np.ndarray  # to each rank of the world, and waits for it (passed.py); zeros where the transport cannot tell
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

    def wait(self) -> None:
        """Until all ranks are here, as long as it takes."""

    def tell(self, x: np.ndarray) -> None:
        """Rank 0: a broadcast that the others may have awaited for long, in `listen`."""

    def listen(self, x: np.ndarray) -> None:
        """Overwrites x with what rank 0 tells; waits as long as it takes, without burning the core."""


def _without_mpirun() -> bool:
    """Whether RANK, WORLD_SIZE and a folder to meet in say who we are, as torchrun says it, and mpirun does not."""
    return "OMPI_COMM_WORLD_RANK" not in os.environ and "MPSPLIT_STORE" in os.environ


def mpi_rank() -> int | None:
    """The rank that mpirun gave this process (or RANK, without it), None for a process alone; known before MPI is started."""
    given = os.environ.get("RANK" if _without_mpirun() else "OMPI_COMM_WORLD_RANK")
    return None if given is None else int(given)


def mpi_size() -> int:
    """How many ranks were started, 1 without mpirun or WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE" if _without_mpirun() else "OMPI_COMM_WORLD_SIZE", "1"))


TRANSPORTS = ("", "mpi4py", "mpi", "gloo")


@functools.cache
def world() -> Communicator:
    """All ranks. The first call is a collective one. MPSPLIT_TRANSPORT chooses: mpi4py, mpi or gloo."""
    wanted = os.environ.get("MPSPLIT_TRANSPORT", "")
    if wanted not in TRANSPORTS:
        raise RunError(f"MPSPLIT_TRANSPORT={wanted} is none of {', '.join(TRANSPORTS[1:])}")
    if mpi_size() == 1:
        return Alone()
    if _without_mpirun():
        if "RANK" not in os.environ:
            raise RunError(
                f"MPSPLIT_STORE and WORLD_SIZE={mpi_size()} are set, but not RANK; give each process its own, from 0"
            )
        return Native.gloo(mpi_rank(), mpi_size(), os.environ["MPSPLIT_STORE"])
    from mpi4py import MPI

    built = np.array([wanted != "mpi4py" and load_native() is not None], np.int32)
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, built, MPI.MIN)
    if not built[0]:  # one host without a compiler, and nobody uses it
        if wanted in ("mpi", "gloo"):
            raise RunError(
                f"MPSPLIT_TRANSPORT={wanted} needs the C++ communicator on every host; run python -m mpsplit.native there"
            )
        return Mpi(MPI.COMM_WORLD)
    return Native.gloo_under_mpirun() if wanted == "gloo" else Native.mpi()


def end_all_ranks(code: int) -> NoReturn:
    """Ends this process without MPI_Finalize, which mpirun answers by ending the others, quieter than MPI_Abort does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
