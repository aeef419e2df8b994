"""Every call of a save to a disk fails once, on rank 0 and on one that follows, with Python and
without: the answer is right, the request is told, and the next save works."""

import subprocess
import sys

import pytest

from mpsplit import mpirun
from mpsplit.mpirun import OPEN_MPI
from mpsplit.native import cpp
from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import rank_environment
from tests.runtime.kept.disk_faults import library


@needs("the engine")
@pytest.mark.seconds(240)
@pytest.mark.parametrize("follower", ["Python", "mpsplit-rank"])
def test_each_call_that_fails_is_told_and_spoils_nothing(package_of, tmp_path, follower):
    package, control = package_of(EXAMPLE, 2, 1), tmp_path / "control"
    control.write_bytes(bytes(4096))
    lead = [sys.executable, "-m", "tests.runtime.kept.fault_ranks", package, control]
    other = lead if follower == "Python" else [cpp.folder() / "mpsplit-rank", package, "--threads", "1"]
    command = [mpirun.find_mpirun(), "-np", "1", *lead, ":", "-np", "1", *other]
    environment = {**OPEN_MPI, **rank_environment(LD_PRELOAD=str(library(tmp_path)), MPSPLIT_FAULTS=str(control))}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [(0, 0), (0, 40), (1, 0), (1, 40)]
    for rank, _, failed, told in lines:
        # mkdir, open, head, pages, checksum, fsync of the file and of its folder
        assert failed >= (20 if rank == 0 else 10) and told >= failed * 0.7, lines
