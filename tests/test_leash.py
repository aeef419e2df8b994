"""Nothing is left after a kill -9 of whoever started it, and nobody is killed before."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from mpsplit.leash import leashed
from tests.extensions.meeting import meet
from tests.running import MPSPLIT, ROOT, descendants, gone, rank_environment

SECONDS = 2
FAMILY = """
import threading, time
from mpsplit.leash import leashed
thread = threading.Thread(target=lambda: leashed(["sh", "-c", "sleep 600 & sleep 601"], family=True))
thread.start(), thread.join()
leashed(["sleep", "602"])
time.sleep(600)
"""
TEMPLATE = """
from mpsplit.runtime.talk.template_renderer import Renderer
many = "{% for _ in range(99999) %}"
Renderer(seconds=100).render(many * 3 + "{% endfor %}" * 3, {})
"""
FRONT = """
from mpsplit import mpirun
mpirun.command_of = lambda *_: [mpirun.find_mpirun(), "-np", "1", "sleep", "603"]
print(mpirun.run(1, []).code)
"""
PROGRAM = "import sys; from mpsplit.leash import run; print(run(['cat', '/dev/zero'], timeout=600))"


def below(parent: subprocess.Popen, count: int) -> list[int]:
    """The processes that it has started, once there are as many."""
    while len(found := descendants(parent.pid)) < count:
        assert parent.poll() is None
        time.sleep(0.02)
    return [pid for pid, _ in found]


@pytest.mark.parametrize("program, count", [(FAMILY, 4), (TEMPLATE, 1), (PROGRAM, 1)], ids=("family", "busy", "run"))
def test_what_was_started_ends_too(program, count):
    """Also where the thread has ended that started it, and where it is busy."""
    parent = subprocess.Popen([sys.executable, "-c", program], env=rank_environment(), cwd=ROOT)
    started = below(parent, count)
    time.sleep(0.3)  # it stays while its parent does
    assert sorted(pid for pid, _ in descendants(parent.pid)) == sorted(started)
    parent.kill()
    parent.wait()
    assert gone(started, SECONDS)


def test_a_process_of_ours_may_end_before_us():
    with leashed(["sh", "-c", "exit 3"]) as first, leashed(["sleep", "600"]) as second:
        assert first.wait() == 3 and second.poll() is None
        second.kill()


@pytest.mark.parametrize("how", ("mpirun mpi+shm", "mpirun mpi4py"))
def test_ranks_end_with_mpirun(tmp_path, how):
    (mpirun,), pids = meet("time.sleep(600)\n", how, tmp_path)
    os.kill(mpirun.pid, signal.SIGKILL)
    mpirun.wait()
    assert gone(pids, SECONDS)


@pytest.mark.parametrize("listens", (True, False), ids=("mpirun is there", "mpirun has gone"))
@pytest.mark.parametrize(
    "daemon, is_child, asked", [(0, False, True), (0, True, False), (3, False, False)], ids=("alone", "child", "far")
)
def test_a_rank_whose_mpirun_has_gone_does_not_begin(listens, daemon, is_child, asked):
    """It was killed before the rank could ask the kernel to end with it."""
    parent = os.getpid() if is_child else 1
    with socket.create_server(("127.0.0.1", 0)) as mpirun:
        port = mpirun.getsockname()[1]
        if not listens:
            mpirun.close()
        uri = f"prterun-a-host-{parent}@0.{daemon};tcp4://127.0.0.1:{port}"
        environment = rank_environment(OMPI_COMM_WORLD_RANK="0", PMIX_SERVER_URI41=uri)
        rank = subprocess.run([*MPSPLIT, "--version"], env=environment, capture_output=True, text=True, check=False)
    if asked and not listens:
        assert (rank.returncode, rank.stdout) == (-signal.SIGKILL, "")
    else:
        assert rank.returncode == 0 and rank.stdout.startswith("mpsplit ")


def test_a_killed_mpirun_leaves_nothing_that_the_next_of_its_number_finds(tmp_path):
    """Its folder is called by its number, and where there is one it does not start."""
    front = subprocess.Popen([sys.executable, "-c", FRONT], env=rank_environment(TMPDIR=str(tmp_path)), cwd=ROOT)
    mpirun, rank = below(front, 2)
    (own,) = tmp_path.iterdir()
    assert [path.name for path in own.iterdir()] == [f"ompi.{mpirun}"]
    os.kill(mpirun, signal.SIGKILL)
    os.kill(rank, signal.SIGKILL)
    assert front.wait(20) == 0 and list(tmp_path.iterdir()) == []
