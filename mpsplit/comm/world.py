"""Which rank this process is, and the communicator of all ranks.

In: what mpirun or the environment says. Out: a Communicator.

mpi4py is imported only when there are peers, because importing it starts MPI.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import NoReturn

import numpy as np

from mpsplit.comm.alone import Alone
from mpsplit.comm.communicator import Communicator
from mpsplit.comm.mpi_comm import Mpi
from mpsplit.comm.native_comm import Native
from mpsplit.errors import RunError
from mpsplit.leash import end_with_mpirun, under_mpirun
from mpsplit.native.cpp import load as load_native


def _without_mpirun() -> bool:
    """Whether RANK, WORLD_SIZE and a folder to meet in say who we are, as torchrun says it, and
    mpirun does not."""
    return not under_mpirun() and "MPSPLIT_STORE" in os.environ


def mpi_rank() -> int | None:
    """The rank that mpirun gave this process (or RANK, without it), None for a process alone; known
    before MPI is started."""
    given = os.environ.get("RANK" if _without_mpirun() else "OMPI_COMM_WORLD_RANK")
    return None if given is None else int(given)


def mpi_size() -> int:
    """How many ranks were started, 1 without mpirun or WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE" if _without_mpirun() else "OMPI_COMM_WORLD_SIZE", "1"))


TRANSPORTS = ("", "mpi4py", "mpi", "gloo")


@functools.cache
def world() -> Communicator:
    """All ranks. The first call is a collective one. MPSPLIT_TRANSPORT chooses: mpi4py, mpi or
    gloo."""
    wanted = os.environ.get("MPSPLIT_TRANSPORT", "")
    if wanted not in TRANSPORTS:
        raise RunError(f"MPSPLIT_TRANSPORT={wanted} is none of {', '.join(TRANSPORTS[1:])}")
    if mpi_size() == 1:
        return Alone()
    if _without_mpirun():
        if (rank := mpi_rank()) is None:
            raise RunError(
                f"MPSPLIT_STORE and WORLD_SIZE={mpi_size()} are set, but not RANK; give each process its own, from 0"
            )
        return Native.gloo(rank, mpi_size(), os.environ["MPSPLIT_STORE"])
    end_with_mpirun()
    from mpi4py import MPI

    built = np.array([wanted != "mpi4py" and load_native() is not None], np.int32)
    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, built, MPI.MIN)
    if not built[0]:  # one host without a compiler, and nobody uses it
        if wanted in ("mpi", "gloo"):
            raise RunError(
                f"MPSPLIT_TRANSPORT={wanted} needs the C++ communicator on every host; run python -m mpsplit.native"
                " there"
            )
        return Mpi.over(MPI.COMM_WORLD)
    return Native.gloo_under_mpirun() if wanted == "gloo" else Native.mpi()


def end_all_ranks(code: int) -> NoReturn:
    """Ends this process without MPI_Finalize, which mpirun answers by ending the others, quieter
    than MPI_Abort does."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
