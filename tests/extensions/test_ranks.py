"""Ranks without mpirun: how they meet, and what the others see when one of them dies, stops, or is
in another collective."""

import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.missing import need
from tests.running import rank_environment, start_rank

need("gloo", module=True)

TALK = """
import sys, numpy as np
from mpsplit.comm import mpi_rank, mpi_size, world
w = world()
assert (w.rank, w.size, w.local_size, w.host_lead) == (mpi_rank(), mpi_size(), mpi_size(), w.rank == 0)
x = np.full(3000, w.rank + 1, np.float32)
w.all_reduce(x)
assert (x == w.size * (w.size + 1) / 2).all() and w.bytes_sent == x.nbytes
assert w.exchange("r" * w.rank) == ["r" * r for r in range(w.size)]
w.wait()
x = np.full(2, w.rank)
w.listen(x) if w.rank else w.tell(x)
assert x.tolist() == [0, 0]
g = w.group(tuple(range(w.size)))
assert (g.local_size, g.host_lead) == (w.local_size, w.host_lead)
assert "mpi4py" not in sys.modules
print(w.transport, flush=True)
"""
REDUCE = """
import sys, numpy as np
from mpsplit.comm import Native
rank, size, store, shared = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "shared"
w = Native.gloo(rank, size, store, shared)
x = np.zeros(2048, np.float32)
print("met", flush=True)
while True:
    w.all_reduce(x)
"""


@pytest.mark.parametrize("size", (1, 2, 3))
def test_ranks_meet_without_mpirun(tmp_path, size):
    program = (
        TALK
        if size > 1
        else "from mpsplit.comm import Alone, world; assert isinstance(world(), Alone); print('gloo+shm')"
    )
    for _ in range(2):  # the folder can be used again
        ranks = [
            start_rank(program, RANK=str(r), WORLD_SIZE=str(size), MPSPLIT_STORE=str(tmp_path / "store"))
            for r in range(size)
        ]
        for rank in ranks:
            out, wrong = rank.communicate(timeout=30)
            assert (rank.returncode, out) == (0, "gloo+shm\n"), wrong


@contextmanager
def beside_a_silent_rank(store, shared, **environment):
    """Rank 0 of two, once rank 1 has stopped in the middle."""
    ranks = [start_rank(REDUCE, str(r), "2", str(store), shared, **environment) for r in range(2)]
    for rank in ranks:
        assert rank.stdout.readline() == "met\n", rank.stderr.read()
    ranks[1].send_signal(signal.SIGSTOP)
    try:
        yield ranks[0]
    finally:
        ranks[1].kill()
        ranks[1].communicate()


def test_a_silent_rank_is_named_after_the_timeout(tmp_path):
    with beside_a_silent_rank(tmp_path, "alone", MPSPLIT_TIMEOUT="2") as rank:
        assert "rank 1 did not answer for 2 s" in rank.communicate(timeout=15)[1]


def test_a_rank_that_never_comes(tmp_path):
    rank = start_rank(REDUCE, "0", "2", str(tmp_path), "alone", MPSPLIT_TIMEOUT="1")
    told = rank.communicate(timeout=40)[1]
    assert re.search("CommError: rank 0 waited 1 s in .* for rank 1, which did not come", told), told


def test_ranks_in_different_collectives(tmp_path):
    program = REDUCE.replace("np.zeros(2048,", "np.zeros(2048 + rank,")
    ranks = [start_rank(program, str(r), "2", str(tmp_path), "shared") for r in range(2)]
    told = [rank.communicate(timeout=20)[1] for rank in ranks]
    assert any("they are not in the same collective" in text for text in told), told


@pytest.mark.parametrize("shared", ("shared", "alone"))
def test_ctrl_c_ends_a_wait(tmp_path, shared):
    with beside_a_silent_rank(tmp_path, shared) as rank:
        time.sleep(0.3)
        rank.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in rank.communicate(timeout=5)[1]


def test_building_again_is_quick_and_no_compiler_is_told(tmp_path):
    command = [sys.executable, "-m", "mpsplit.native"]
    again = subprocess.run(command, env=rank_environment(), capture_output=True, text=True, timeout=20, check=True)
    assert "was built before: " in again.stdout and "shared memory; kernels plain" in again.stdout
    none = rank_environment(PATH="/nowhere", MPSPLIT_CACHE=str(tmp_path))
    without = subprocess.run(command, env=none, capture_output=True, text=True, timeout=20, check=False)
    assert (without.returncode, without.stdout.count("\n")) == (1, 1)
    assert "a C++ compiler" in without.stdout and "missing" in without.stdout
