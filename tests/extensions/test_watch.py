"""When one rank dies, over every transport: the others end within ten seconds, name it, and leave
nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpsplit.mpirun import OPEN_MPI, find_mpirun
from tests.running import gone, rank_environment, start_rank

SIZE, LIMIT = 3, 10
HOW = {  # name -> (whether mpirun starts the ranks, MPSPLIT_TRANSPORT)
    "gloo alone": (False, ""),
    "gloo+shm": (False, ""),
    "mpirun mpi+shm": (True, "mpi"),
    "mpirun gloo+shm": (True, "gloo"),
    "mpirun mpi4py": (True, "mpi4py"),
}
MEET = """
import os, sys, time
import numpy as np
from mpsplit.comm import Native, mpi_rank, mpi_size, world
w = Native.gloo(mpi_rank(), mpi_size(), os.environ["MPSPLIT_STORE"], False) if "ALONE" in os.environ else world()
x = np.zeros(20000, np.float32)
print("met", w.rank, os.getpid(), flush=True)
"""
STREAM = MEET + "while True: w.all_reduce(x)\n"


def meet(program: str, how: str, store: Path) -> tuple[list[subprocess.Popen], list[int]]:
    """What was started, and the process of each rank."""
    under_mpirun, transport = HOW[how]
    environment = {"MPSPLIT_TRANSPORT": transport, **({"ALONE": "1"} if "alone" in how else {})}
    if under_mpirun:
        command = [find_mpirun(), "-np", str(SIZE), sys.executable, "-c", program]
        started = [
            subprocess.Popen(
                command, env={**OPEN_MPI, **rank_environment(**environment)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        ]  # fmt: skip
    else:
        environment |= {"WORLD_SIZE": str(SIZE), "MPSPLIT_STORE": str(store)}
        started = [start_rank(program, RANK=str(r), **environment) for r in range(SIZE)]
    lines = [child.stdout.readline() for child in started for _ in range(SIZE // len(started))]
    pids = {int(rank): int(pid) for rank, pid in (line.split()[1:] for line in lines)}
    return started, [pids[r] for r in range(SIZE)]


def segments(pids: list[int]) -> list[Path]:
    """The files in /dev/shm that these processes have mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return [Path(name) for name in set(re.findall(r"/dev/shm/\S+", maps))]


def ends(started: list[subprocess.Popen]) -> list[str]:
    """What each said on its error stream, all of them within the limit."""
    last = time.monotonic() + LIMIT
    return [child.communicate(timeout=max(0.1, last - time.monotonic()))[1] for child in started]


@pytest.mark.parametrize("how, victim", [(how, r) for how in HOW for r in ((1,) if HOW[how][0] else range(SIZE))])
def test_a_killed_rank_is_named_and_leaves_nothing(tmp_path, how, victim):
    started, pids = meet(STREAM, how, tmp_path)
    time.sleep(0.1 + 0.1 * victim)
    mapped = segments(pids)
    os.kill(pids[victim], signal.SIGKILL)
    told = ends(started)
    survivors = told if HOW[how][0] else told[:victim] + told[victim + 1 :]
    for text in survivors:
        assert f"rank {victim} " in text, told
    assert gone(pids)
    assert not [path for path in mapped if path.exists()]


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm"))
def test_a_rank_that_waits_for_another_learns_of_it_too(tmp_path, how):
    program = MEET + "w.recv(x, 2) if w.rank == 0 else time.sleep(60)\n"
    started, pids = meet(program, how, tmp_path)
    time.sleep(0.3)
    os.kill(pids[1], signal.SIGKILL)
    assert "rank 1 has gone (seen by rank 0" in ends(started[:1])[0]
    for child in started[1:]:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm"))
def test_the_first_to_fail_is_named_not_the_one_waited_for(tmp_path, how):
    program = MEET + 'w.recv(x, w.rank + 1) if w.rank < 2 else sys.exit("out of luck")\n'
    told = ends(meet(program, how, tmp_path)[0])
    assert "out of luck" in told[2]
    assert all(re.search("Error: rank 2 .*has (gone|died)", text) for text in told[:2]), told


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm"))
def test_a_rank_that_ends_in_good_order_is_not_missed(tmp_path, how):
    program = MEET + (
        "pair = w.comm.group([0, 1])\n"
        "if w.rank == 2: sys.exit()\n"
        "for turn in range(4):\n"
        "    time.sleep(0.5 * (turn % 2 == w.rank))\n"
        "    pair.all_reduce(x)\n"
    )
    started, _ = meet(program, how, tmp_path)
    assert ends(started) == [""] * SIZE
    assert [child.returncode for child in started] == [0] * SIZE


def test_what_a_rank_sent_before_it_ended_arrives(tmp_path):
    program = MEET + (
        "x = np.zeros(1 << 20)\n"
        "if w.rank == 1: w.send(x, 0)\n"
        "if w.rank == 0: time.sleep(0.5), w.recv(x, 1), print('came')\n"
    )
    started, _ = meet(program, "gloo alone", tmp_path)
    assert started[0].communicate(timeout=LIMIT) == ("came\n", "")
    ends(started[1:])
