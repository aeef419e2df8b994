"""Progress bars for long work: on rank 0 only, and only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from mpsplit.comm import mpi_rank

T = TypeVar("T")
TERMINAL = "MPSPLIT_TERMINAL"  # set by launch.py, which sees the terminal that mpirun hides from its ranks


def on_terminal() -> bool:
    return os.environ.get(TERMINAL, "1" if sys.stderr.isatty() else "0") == "1"


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, with a bar while they are worked on."""
    if mpi_rank() not in (None, 0) or not on_terminal():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(list(items), what, console=Console(stderr=True, force_terminal=True), transient=True)
