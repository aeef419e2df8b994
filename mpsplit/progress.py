"""Progress bars for long work, on rank 0 only and only on a terminal; tables for people, in colours
only there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mpsplit.comm import mpi_rank

T = TypeVar("T")
WIDE = 160  # columns where there is no terminal
# set by mpirun.py, which sees the terminal that mpirun hides from its ranks
TERMINAL = "MPSPLIT_TERMINAL"


def on_terminal() -> bool:
    return os.environ.get(TERMINAL, "1" if sys.stderr.isatty() else "0") == "1"


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, with a bar while they are worked on."""
    if not _shown():
        yield from items
        return
    from rich.progress import track as rich_track

    yield from rich_track(list(items), what, console=console(stderr=True), transient=True)


@contextmanager
def percent_bar(what: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the percent that are done."""
    if not _shown():
        yield lambda percent: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=100)
        yield lambda percent: bar.update(task, completed=percent)


@contextmanager
def bytes_bar(what: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """A function to call with what is worked on and the bytes that are done, which shows their rate
    and the time that is left."""
    if not _shown():
        yield lambda name, count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda name, count: bar.update(task, advance=count, description=f"{what} {name}")


def _shown() -> bool:
    return mpi_rank() in (None, 0) and on_terminal()


def console(stderr: bool = False):
    """A rich Console. Under mpirun every rank's output looks like a terminal; mpirun.py knows
    whether there is one. What is none has no edge to keep to."""
    from rich.console import Console

    console = Console(stderr=stderr, force_terminal=None if mpi_rank() is None else on_terminal())
    if not console.is_terminal:
        console.width = WIDE
    return console
