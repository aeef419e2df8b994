"""Threads of a rank: never more than its share of the cores."""

import os
import subprocess
import sys

import pytest

from mpsplit.runtime.engine import control_groups
from mpsplit.runtime.engine import cores as counted
from mpsplit.runtime.engine.cores import cores_of_groups, share_of_cores
from mpsplit.runtime.engine.memory_left import left_in_cgroups
from tests.extensions.builds import build
from tests.missing import needs


@pytest.mark.parametrize(
    "cores, ranks, asked, threads",
    [
        (8, 1, "", 8),
        (8, 2, "", 4),
        (8, 3, "", 2),
        (8, 2, "3", 3),
        (8, 2, "8", 4),
        (2, 4, "", 1),
        (4, 1, "many", 4),
        (4, 1, "0", 4),
    ],
)
def test_a_share(monkeypatch, cores, ranks, asked, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(counted, "GROUPS", None)
    monkeypatch.setattr(counted, "cores_of_groups", lambda text, root: [])
    assert share_of_cores(ranks) == threads


# /proc/self/cgroup, files of groups, the limits that are found
GROUPS = [
    ("0::/\n", {}, []),
    ("", {"cpu.max": "100000 100000"}, []),
    ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, [3.0]),
    ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "400000 100000"}, [4.0, 1.5]),
    ("0::/a\n", {"a/cpu.max": "20000 100000", "cpu.max": "800000 100000"}, [0.2, 8.0]),
    ("0::/a\n", {"a/cpu.max": "damaged"}, []),
    (
        "5:cpu,cpuacct:/pod\n4:memory:/pod\n0::/\n",
        {"cpu/pod/cpu.cfs_quota_us": "250000", "cpu/pod/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "-1"},
        [2.5],
    ),
    ("3:cpuset:/pod\n", {"cpu/pod/cpu.cfs_quota_us": "100000", "cpu/pod/cpu.cfs_period_us": "100000"}, []),
]


MEMORY = {
    "a/memory.max": "5000", "a/memory.current": "2000", "a/memory.stat": "anon 7\ninactive_file 500",
    "a/b/memory.max": "max", "a/b/memory.current": "1000", "a/b/memory.stat": "inactive_file 0",
    "memory/pod/memory.limit_in_bytes": "900", "memory/pod/memory.usage_in_bytes": "950",
    "memory/pod/memory.stat": "total_inactive_file 20",
}  # fmt: skip


def folder_of(files, root):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize("own, files, limits", GROUPS)
def test_the_time_that_groups_are_given(tmp_path, own, files, limits):
    assert cores_of_groups(own, folder_of(files, tmp_path)) == limits


@pytest.mark.parametrize("limit, threads", [("150000 100000", 1), ("20000 100000", 1), ("300000 100000", 3)])
def test_a_share_of_the_time(monkeypatch, tmp_path, limit, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(control_groups, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(counted, "GROUPS", folder_of({"cpu.max": limit}, tmp_path))
    assert share_of_cores(1) == threads


@needs("the engine")
def test_a_rank_without_python_counts_alike(tmp_path_factory):
    program = build(tmp_path_factory.getbasetemp() / "cores", "cores_test", f"-DPython_EXECUTABLE={sys.executable}")
    for number, (own, files, limits) in enumerate(GROUPS):
        root = folder_of(files, tmp_path_factory.mktemp(f"groups-{number}"))
        said = subprocess.run([program / "rank" / "cores_test", own, root], capture_output=True, text=True, check=True)
        assert int(said.stdout.split()[0]) == min((max(1, int(limit)) for limit in limits), default=0)
    for number, (own, left) in enumerate(
        [("0::/a/b\n", 3500), ("5:cpu,memory:/pod\n4:pids:/pod\n", 0), ("0::/\n", -1)]
    ):
        root = folder_of(MEMORY, tmp_path_factory.mktemp(f"memory-{number}"))
        said = subprocess.run([program / "rank" / "cores_test", own, root], capture_output=True, text=True, check=True)
        assert int(said.stdout.split()[1]) == left == min(left_in_cgroups(own, root), default=-1)
