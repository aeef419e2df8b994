"""What ranks have begun of a partition, in .next/ of the package, until it is whole.

In: a package's folder. Out: none of it left.

Invariant: nothing here needs torch: who started the ranks clears up after one that was killed
before it could. What another command is just making is left alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.manifest import rank_folder
from mpsplit.package.together.package_commit import NEXT, forget_unfinished_partition
from mpsplit.package.together.package_lock import held


def forget_ranks(out: Path, ranks: Iterable[int]) -> None:
    """What these ranks have begun, and .next/ when nothing of another rank is in it."""
    for rank in ranks:
        shutil.rmtree(rank_folder(out / NEXT, rank), ignore_errors=True)
    if not list((out / NEXT).glob("rank-*")):
        shutil.rmtree(out / NEXT, ignore_errors=True)


def forget(out: Path) -> None:
    """All of a partition that died, and `out` when nothing else is in it."""
    with suppress(PackageError), held(out, "cleared up", writes=True):  # or another command has it
        forget_unfinished_partition(out)
    with suppress(OSError):  # it holds something else
        out.rmdir()
