"""How to start a plan on its machines: what Open MPI 5 must be told.

In: a plan, a cluster. Out: a hostfile, a rankfile, one command.

The devices of the cluster are the ranks of the plan, in order. Several may be on one host, in any
order. Invariant: each rank starts on the host of its device, with that device's threads
(tests/plan/test_host_files.py starts them).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mpsplit.errors import LaunchError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.shards import Plan

RUN = ("mpsplit", "run", "PACKAGE")
UNREADABLE = (":", "pe")  # in a rankfile's path Open MPI 5.0 takes them for options of --map-by
INVENTED = (
    "# These names were made up with the description of the machines: write the real ones, here and in the {other}.\n"
)


@dataclass(frozen=True)
class Launch:
    """Two files, and the shell's line that uses them."""

    hostfile: Path
    rankfile: Path
    command: str


def write(plan: Plan, cluster: Cluster, folder: Path, program: Sequence[str] = RUN) -> Launch:
    """The files in `folder`; `program` is what each rank runs."""
    assert plan.ranks == cluster.size, f"{plan.ranks} ranks on {cluster.size} devices"
    folder = Path(folder)
    hostfile, rankfile = folder / "hostfile", folder / "rankfile"
    for taken in UNREADABLE:
        if taken in str(rankfile).lower():
            raise LaunchError(
                f"mpirun reads no rankfile with {taken!r} in its path, as in {rankfile}; use another folder, or its"
                " path from here"
            )
    folder.mkdir(parents=True, exist_ok=True)
    hostfile.write_text(hostfile_text(cluster), encoding="utf-8")
    rankfile.write_text(rankfile_text(cluster), encoding="utf-8")
    return Launch(hostfile, rankfile, command(cluster, hostfile, rankfile, program))


def hostfile_text(cluster: Cluster) -> str:
    """A line a host, with as many slots as ranks."""
    lines = [f"{host} slots={len(ranks)}\n" for host, ranks in cluster.hosts.items()]
    return _warning(cluster, "rankfile") + "".join(lines)


def rankfile_text(cluster: Cluster) -> str:
    """A line a rank.

    The slot says nothing, because no rank is bound to it; but Open MPI wants one that every host
    has.
    """
    lines = [f"rank {rank}={device.host} slot=0\n" for rank, device in enumerate(cluster.devices)]
    return _warning(cluster, "hostfile") + "".join(lines)


def command(cluster: Cluster, hostfile: Path, rankfile: Path, program: Sequence[str] = RUN) -> str:
    """mpirun with a part for each run of ranks that have the same number of threads.

    As in launch/env, no rank is bound, because a bound rank cannot use its threads. And as there,
    more ranks than cores are allowed.
    """
    mapping = f"rankfile:oversubscribe:file={rankfile}"
    mpirun = ["mpirun", "--hostfile", str(hostfile), "--map-by", mapping, "--bind-to", "none"]
    parts = [
        ["-np", str(len(list(run))), "-x", "PATH", "-x", f"OMP_NUM_THREADS={threads}", *program]
        for threads, run in groupby(device.threads for device in cluster.devices)
    ]
    return shlex.join(mpirun) + " \\\n  " + " \\\n  : ".join(shlex.join(part) for part in parts)


def _warning(cluster: Cluster, other: str) -> str:
    return "" if cluster.measured else INVENTED.format(other=other)
