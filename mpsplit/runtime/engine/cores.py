"""How many threads a rank may have.

In: the ranks of this host. Out: a number that leaves the neighbours their cores.
"""

from __future__ import annotations

import os


def share_of_cores(local_ranks: int) -> int:
    """An equal share of the cores that this process may use, or OMP_NUM_THREADS where that
    is less."""
    share = max(1, len(os.sched_getaffinity(0)) // local_ranks)
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(wish), share) if wish.isdigit() and int(wish) else share
