"""`mpsplit simulate`: what the formula and the simulation say of a plan, side by side. In: both. Out: a plain dict, or a table."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from mpsplit import planning
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.cost import Cost
from mpsplit.plan.placed import Placed
from mpsplit.plan.simulate import Cause, Simulated
from mpsplit.progress import console


def cluster_of(args: argparse.Namespace, ranks: int) -> Cluster:
    """The machines that the arguments name or describe, or those that --plan was made for."""
    said = args.cluster or any(getattr(args, name) for name in planning.DESCRIPTION)
    placed = Placed.load(Path(args.plan)) if args.plan and not said else None
    return placed.cluster if placed else planning.cluster_of(args, ranks)


def describe(cost: Cost, found: Simulated) -> dict:
    """Seconds, tokens a second, bytes; shares by rank."""
    told = asdict(found) | {
        "token": found.token,
        "p99": found.p99,
        "waiting": found.waiting,
        "wire_bytes": found.wire_bytes,
    }
    told["sent"] = [{"from": a, "to": b, "bytes": size} for (a, b), size in sorted(found.sent.items())]
    told["waited_for"] = [
        {"who": named(cause), "seconds": seconds}
        for cause, seconds in sorted(found.waited_for.items(), key=lambda item: -item[1])
    ]
    formula = {name: getattr(cost, name) for name in ("first_token", "token", "throughput")}
    return {"formula": formula, "simulation": told}


def named(cause: Cause) -> str:
    return f"rank {cause}" if isinstance(cause, int) else f"link {cause[0]}-{cause[1]}"


def share_of_slowest(found: Simulated) -> str:
    """Whom the others waited for most, and how much of all ranks' time that took."""
    if found.slowest is None:
        return "nobody"
    share = found.waited_for[found.slowest] / (found.seconds * len(found.computing))
    return f"{named(found.slowest)}, {share:.1%} of all ranks' time"


def show(title: str, cost: Cost, found: Simulated, requests: int) -> None:
    from rich.table import Table

    table = Table("", "formula", "simulation", title=title)
    table.add_row("first token", f"{cost.first_token:,.4g} s", f"{found.first_token:,.4g} s")
    table.add_row("token", f"{cost.token:,.4g} s", f"{found.token:,.4g} s")
    table.add_row("99 of 100 tokens within", "", f"{found.p99:,.4g} s")
    table.add_row(
        "tokens a second, one request", f"{1 / cost.token:,.4g}", "" if requests > 1 else f"{found.throughput:,.4g}"
    )
    table.add_row("as many as fill the pipeline", f"{cost.throughput:,.4g}", "")
    if requests > 1:
        table.add_row(f"{requests} requests", "", f"{found.throughput:,.4g}")
    shares = (("computing", found.computing), ("in messages", found.talking), ("waiting", found.waiting))
    for name, ranks in shares:
        spread = f"{sum(ranks) / len(ranks):.1%} ({min(ranks):.1%} to {max(ranks):.1%})"
        table.add_row(f"{name}, over the ranks", "", spread)
    table.add_row("waited for in sums", "", share_of_slowest(found))
    table.add_row("between ranks", "", f"{found.messages:,} messages, {found.wire_bytes / 1e6:,.1f} MB")
    console().print(table)
