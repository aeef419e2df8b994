import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mpsplit.errors import LaunchError
from mpsplit.mpirun import find_mpirun
from mpsplit.plan.cluster import described
from mpsplit.plan.host_files import write
from mpsplit.plan.shards import even_plan
from tests.models import facts

SHOW = (
    "import os; e = os.environ; print(e['OMPI_COMM_WORLD_RANK'], e.get('SIMULATED_HOST', 'localhost'),"
    " e['OMP_NUM_THREADS'], len(os.sched_getaffinity(0)))"
)
# stands in for ssh: runs what it should run there here, and says where "there" is
SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
SIMULATED_HOST=$host exec sh -c "$*"
"""


def cluster_of(*machines: tuple[str, int], measured=True):
    """A device for each host name and number of threads."""
    cluster = described([8 << 30] * len(machines))
    devices = [replace(d, host=h, threads=t) for d, (h, t) in zip(cluster.devices, machines, strict=True)]
    return replace(cluster, devices=tuple(devices), measured=measured)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Paths from here: of tmp_path's own mpirun may not take every letter."""
    monkeypatch.chdir(tmp_path)


def plan_of(cluster):
    return even_plan(facts(), 1, cluster.size)


def started(command: str, *options: str) -> list[str]:
    """What the ranks print, in their order, when the shell runs the line; only what mpirun needs
    comes from the surroundings."""
    mpirun = find_mpirun()
    surroundings = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PRTE_", "PMIX_", "OMP_"))
    }
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        ["sh", "-c", command.replace("mpirun", " ".join([mpirun, *options]), 1)],
        capture_output=True, text=True, env=surroundings | root, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


def test_the_files_start_every_rank_with_its_threads_and_bind_none():
    cluster = cluster_of(("localhost", 3), ("localhost", 3), ("localhost", 1), ("localhost", 2))
    launch = write(plan_of(cluster), cluster, Path("a folder"), (sys.executable, "-c", SHOW))
    cores = len(os.sched_getaffinity(0))
    assert started(launch.command) == [
        f"{rank} localhost {threads} {cores}" for rank, threads in enumerate((3, 3, 1, 2))
    ]


def test_interleaved_ranks_land_on_the_hosts_that_the_plan_says(tmp_path):
    machines = [("board-a", 4), ("board-b", 2), ("board-a", 4), ("board-c", 2), ("board-b", 2)]
    cluster = cluster_of(*machines)
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    launch = write(plan_of(cluster), cluster, Path(), (sys.executable, "-c", SHOW))
    lines = started(launch.command, "--prtemca", "plm_ssh_agent", str(tmp_path / "ssh"))
    assert [line.split()[:3] for line in lines] == [
        [str(rank), host, str(threads)] for rank, (host, threads) in enumerate(machines)
    ]


def test_texts():
    cluster = cluster_of(("board-a", 4), ("board-b", 4), ("board-a", 4))
    launch = write(plan_of(cluster), cluster, Path())
    assert launch.hostfile.read_text() == "board-a slots=2\nboard-b slots=1\n"
    assert launch.rankfile.read_text() == "rank 0=board-a slot=0\nrank 1=board-b slot=0\nrank 2=board-a slot=0\n"
    assert launch.command.endswith("  -np 3 -x PATH -x OMP_NUM_THREADS=4 mpsplit run PACKAGE")


def test_made_up_names_are_said_to_be_and_mpirun_reads_over_it():
    cluster = cluster_of(("localhost", 1), measured=False)
    launch = write(plan_of(cluster), cluster, Path(), (sys.executable, "-c", SHOW))
    assert launch.hostfile.read_text().startswith("# These names were made up")
    assert len(started(launch.command)) == 1


@pytest.mark.parametrize(("folder", "taken"), [("a:b", "':'"), ("Peter", "'pe'")])
def test_a_path_that_mpirun_cannot_read_is_refused(folder, taken):
    cluster = cluster_of(("localhost", 1))
    with pytest.raises(LaunchError, match=f"with {taken} in its path"):
        write(plan_of(cluster), cluster, Path(folder))
