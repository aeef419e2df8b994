"""The folders that ranks write into until a partition is whole.

In: a package's folder. Out: their names, or none of them left.

Invariant: nothing here needs torch: who started the ranks clears up after one that was killed
before it could.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def partial_folder(out: Path, rank: int) -> Path:
    return out / f".rank-{rank}.partial"


def forget(out: Path, ranks: Iterable[int]) -> None:
    """Removes what these ranks have begun, and `out` when nothing else is in it."""
    for rank in ranks:
        shutil.rmtree(partial_folder(out, rank), ignore_errors=True)
    with suppress(OSError):  # it holds something else, or another rank was faster
        out.rmdir()
