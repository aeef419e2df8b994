"""Three ranks over each transport, as processes of their own: what tests of their end start."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from mpsplit.mpirun import OPEN_MPI, find_mpirun
from tests.running import rank_environment, start_rank

SIZE, LIMIT = 3, 10  # ranks; seconds in which all of them end
HOW = {  # name -> (whether mpirun starts the ranks, MPSPLIT_TRANSPORT)
    "gloo alone": (False, ""),
    "gloo+shm": (False, ""),
    "mpirun mpi alone": (True, ""),
    "mpirun mpi+shm": (True, "mpi"),
    "mpirun gloo+shm": (True, "gloo"),
    "mpirun mpi4py": (True, "mpi4py"),
}
MEET = """
import os, sys, time
import numpy as np
from mpsplit.comm import Native, end_all_ranks, mpi_rank, mpi_size, world
def end(kind, wrong, _):  # MPI_Finalize would wait
    sys.stderr.write(f"{kind.__name__}: {wrong}\\n")
    end_all_ranks(2)
sys.excepthook = end
from mpsplit.errors import RunError
store = os.environ.get("MPSPLIT_STORE")
alone = (lambda: Native.gloo(mpi_rank(), mpi_size(), store, False)) if store else (lambda: Native.mpi(False))
w = alone() if "ALONE" in os.environ else world()
x = np.zeros(20000, np.float32)
print("met", w.rank, os.getpid(), flush=True)
"""


def meet(program: str, how: str, store: Path, **more: str) -> tuple[list[subprocess.Popen], list[int]]:
    """What was started, and the process of each rank."""
    under_mpirun, transport = HOW[how]
    environment = {"MPSPLIT_TRANSPORT": transport, **({"ALONE": "1"} if "alone" in how else {}), **more}
    if under_mpirun:
        command = [find_mpirun(), "-np", str(SIZE), sys.executable, "-c", MEET + program]
        started = [
            subprocess.Popen(
                command, env={**OPEN_MPI, **rank_environment(**environment)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        ]  # fmt: skip
    else:
        environment |= {"WORLD_SIZE": str(SIZE), "MPSPLIT_STORE": str(store)}
        started = [start_rank(MEET + program, RANK=str(r), **environment) for r in range(SIZE)]
    lines = [child.stdout.readline() for child in started for _ in range(SIZE // len(started))]
    pids = {int(rank): int(pid) for rank, pid in (line.split()[1:] for line in lines)}
    return started, [pids[r] for r in range(SIZE)]


def ends(started: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """What each printed and said on its error stream, all of them within the limit."""
    last = time.monotonic() + LIMIT
    return [child.communicate(timeout=max(0.1, last - time.monotonic())) for child in started]
