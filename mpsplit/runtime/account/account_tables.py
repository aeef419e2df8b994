"""Accounts for people: where the time of each rank went by kind of layer, what passed over each
link, and whom the others waited for.

In: accounts, a rank each. Out: tables for a terminal, or their text.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from mpsplit.runtime.account.account import Account
from mpsplit.runtime.account.straggler import straggler
from mpsplit.runtime.engine.layer_kinds import BETWEEN, KINDS

WIDE = 100  # columns of the text
NOTABLE_SHARE = 0.05  # of the time of threads
UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


def tables(accounts: Sequence[Account]) -> Iterator[RenderableType]:
    if layers := _layers(accounts):
        yield layers
    if short := threads_text(accounts):
        yield short
    if len(accounts) > 1:
        yield _links(accounts)
        yield straggler_text(accounts)


def text(accounts: Sequence[Account]) -> str:
    written = io.StringIO()
    console = Console(file=written, width=WIDE)
    for table in tables(accounts):
        console.print(table)
    return written.getvalue().rstrip("\n")


def straggler_text(accounts: Sequence[Account]) -> str:
    late = straggler(accounts)
    if late is None:
        return "no rank makes the others wait"
    return f"rank {late.rank} makes the others wait: {length(late.seconds)}, {late.share:.0%} of the time"


def threads_text(accounts: Sequence[Account]) -> str:
    """Of the rank whose threads were the shortest of cores; empty where all had theirs."""
    rank, account = max(enumerate(accounts), key=lambda each: each[1].threads_short, default=(0, Account()))
    if account.threads_short < NOTABLE_SHARE:
        return ""
    alone = account.work_alone / (account.work_shared + account.work_alone)
    return (
        f"the threads of rank {rank} waited {account.threads_short - alone:.0%} of the time for each other, and one of"
        f" them worked alone for {alone:.0%} of it: something else uses these cores; --threads 1 leaves them to it"
    )


def _layers(accounts: Sequence[Account]) -> Table | None:
    """A row a kind, a column a rank."""
    seconds = [account.seconds() for account in accounts]
    if not any(seconds):
        return None
    table = Table("ms in layers", title="where the time went")
    for rank in range(len(accounts)):
        table.add_column(f"rank {rank}", justify="right")
    for kind in KINDS:
        if any(kind in kinds for kinds in seconds):
            waits = " (with waiting)" if kind in BETWEEN else ""
            table.add_row(kind.replace("_", "-") + waits, *(f"{1e3 * kinds.get(kind, 0):,.2f}" for kinds in seconds))
    return table


def _links(accounts: Sequence[Account]) -> Table:
    table = Table("link", title="between ranks")
    for name in ("bytes", "messages", "waited for it", "p50", "p99"):
        table.add_column(name, justify="right")
    for rank, account in enumerate(accounts):
        for link in account.links(rank):
            waits = (length(s) for s in (link.waited_s, link.wait_p50_s, link.wait_p99_s))
            table.add_row(f"{rank} to {link.peer}", f"{link.bytes:,}", f"{link.messages:,}", *waits)
    return table


def length(seconds: float) -> str:
    """Of time, two digits in the unit that fits."""
    unit, size = next(((unit, size) for unit, size in UNITS if seconds >= size), UNITS[-1])
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"
