"""`mpsplit top`: what each rank of a server does, a row a rank, until Ctrl-C.

In: the address of `mpsplit serve`. Out: a live table.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mpsplit.errors import RunError
from mpsplit.runtime.account.account_tables import NOTABLE_SHARE, length

KEY = "MPSPLIT_API_KEY"
BAR = 12  # characters


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    parser.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between looks (default: 1)")
    parser.add_argument("--once", action="store_true", help="look once, print and leave")


def top_command(args: argparse.Namespace) -> int:
    if not args.every > 0:
        raise RunError(f"--every {args.every} is out of range; it must be above 0")
    console = Console()
    if args.once:
        console.print(drawn(seen(args.address)))
        return 0
    with Live(drawn(seen(args.address)), console=console, auto_refresh=False, transient=True) as live:
        while True:
            time.sleep(args.every)
            live.update(drawn(seen(args.address)), refresh=True)


def seen(address: str) -> dict[str, Any]:
    """What /ranks says."""
    address = address if "://" in address else f"http://{address}"
    request = urllib.request.Request(f"{address.rstrip('/')}/ranks")
    if key := os.environ.get(KEY):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as wrong:
        remedy = f"; set {KEY}" if wrong.code == 401 else "; is that mpsplit serve?"
        raise RunError(f"{address} answers with {wrong.code}{remedy}") from None
    except (OSError, ValueError) as wrong:
        raise RunError(f"{address} cannot be seen ({wrong}); start mpsplit serve there, or give its address") from None


def drawn(state: dict[str, Any]) -> Group:
    load, ranks = state["load"], state["ranks"]
    staged = any(row["stage"] for row in ranks)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, side in (
        ("rank", "right"),
        ("host", "left"),
        *([("stage", "right")] if staged else ()),
        ("memory", "right"),
        ("tok/s", "right"),
        ("computes, waits", "left"),
        ("waits p50, p99", "left"),
    ):
        table.add_column(name, justify=side, no_wrap=True)
    for row in ranks:
        table.add_row(
            str(row["rank"]),
            row["host"],
            *([str(row["stage"])] if staged else ()),
            f"{row['memory_bytes'] / 2**20:,.0f} MiB",
            f"{row['tok_s']:.0f}",
            bar(row["busy"], row["wait"]),
            f"{length(row['wait_p50_s'])}, {length(row['wait_p99_s'])}",
        )
    pages = f"; {load['pages_used']} of {load['pages']} pages used, {load['pages_kept']} kept" if load["pages"] else ""
    headline = f"{state['model']}: {load['running']} running, {load['waiting']} waiting{pages}"
    late = [f"rank {row['rank']} makes the others wait" for row in ranks if row["straggler"]]
    short = [
        f"the threads of rank {row['rank']} are short of cores for {row['threads_short']:.0%} of their work: something"
        " else uses them; see --threads"
        for row in ranks
        if row["threads_short"] >= NOTABLE_SHARE
    ]
    return Group(headline, table, *late, *short)


def bar(busy: float, wait: float) -> Text:
    """Shares of the time as lengths, and in numbers."""
    full = round(busy * BAR)
    waits = min(round(wait * BAR), BAR - full)
    text = Text("█" * full, "green")
    text.append("█" * waits, "dark_orange")
    text.append("░" * (BAR - full - waits), "dim")
    return text.append(f" {busy:.0%}, {wait:.0%}", "default")
