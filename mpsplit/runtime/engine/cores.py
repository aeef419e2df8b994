"""How many threads a rank may have.

In: the ranks of this host, /proc, control groups. Out: a number that leaves the neighbours their
cores. extensions/rank/cores.cpp counts the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from mpsplit.runtime.engine.control_groups import GROUPS, groups_of, own_groups


def share_of_cores(local_ranks: int) -> int:
    """An equal share of the cores that this process may use, or OMP_NUM_THREADS where that
    is less."""
    share = max(1, cores() // local_ranks)
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(wish), share) if wish.isdigit() and int(wish) else share


def cores() -> int:
    """Those that we may run on, or as much time as our control groups are given, in whole cores."""
    limits = cores_of_groups(own_groups(), GROUPS)
    return min([len(os.sched_getaffinity(0)), *(max(1, math.floor(limit)) for limit in limits)])


def cores_of_groups(text: str, root: Path) -> list[float]:
    """Of each group with a limit, from ours up to the root: the cores' time that it is given."""
    return [limit for group, version in groups_of("cpu", text, root) for limit in _limits(group, version)]


def _limits(group: Path, version: int) -> Iterator[float]:
    """Nothing where nothing limits it."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return
