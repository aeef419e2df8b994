"""How many threads a rank may have.

In: the ranks of this host, /proc, control groups. Out: a number that leaves the neighbours their
cores. extensions/rank/cores.cpp counts the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def share_of_cores(local_ranks: int) -> int:
    """An equal share of the cores that this process may use, or OMP_NUM_THREADS where that
    is less."""
    share = max(1, cores() // local_ranks)
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(wish), share) if wish.isdigit() and int(wish) else share


def cores() -> int:
    """Those that we may run on, or as much time as our control groups are given, in whole cores."""
    ours = OWN_GROUPS.read_text(encoding="utf-8") if OWN_GROUPS.exists() else ""
    limits = cores_of_groups(ours, GROUPS)
    return min([len(os.sched_getaffinity(0)), *(max(1, math.floor(limit)) for limit in limits)])


def cores_of_groups(text: str, root: Path) -> list[float]:
    """Of each group with a limit, from ours up to the root: the cores' time that it is given.

    `text` is /proc/self/cgroup.
    """
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        version = 2 if not controllers else 1 if "cpu" in controllers.split(",") else None
        for top in _tops(root, controllers, version):
            ours = top / path.lstrip("/")
            groups = [group for group in (ours, *ours.parents) if group.is_relative_to(top)]
            found += [limit for group in groups for limit in _limits(group, version)]
    return found


def _tops(root: Path, controllers: str, version: int | None) -> list[Path]:
    """Where the groups of this line are: a container's `cpu` may be a link to `cpu,cpuacct`."""
    if version is None:
        return []
    return [root] if version == 2 else [next((p for p in (root / "cpu", root / controllers) if p.is_dir()), root)]


def _limits(group: Path, version: int | None) -> Iterator[float]:
    """Nothing where nothing limits it; a container may not see the groups above its own."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
