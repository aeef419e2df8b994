"""`mpsplit simulate`: what the formula and the simulation say of a plan, side by side.

In: a plan, machines. Out: a plain dict, or a table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpsplit.errors import PlanError, RunError
from mpsplit.export.model.named_shapes import SHAPES
from mpsplit.options.machine_options import DESCRIPTION, add_machines, cluster_of
from mpsplit.options.model_argument import facts_of
from mpsplit.options.plan_options import add_factors
from mpsplit.package.stored.quantisation import KINDS
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.cost import Cost, price
from mpsplit.plan.price.rank_clocks import Cause
from mpsplit.plan.price.simulation import Simulated, simulate
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.price.weather import Weather
from mpsplit.plan.shards import Plan, even_plan
from mpsplit.progress import console


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"as for plan, or a shape: {', '.join(SHAPES)}")
    add_factors(parser)
    add("--plan", metavar="FILE", help="a plan.json instead of --tensor and --pipeline")
    add_machines(parser)
    add("--jitter", type=float, default=0.0, metavar="J", help="of all seconds, such as 0.2 (default: 0)")
    add(
        "--straggler",
        action="append",
        default=[],
        metavar="RANK=F",
        help="this rank computes F times slower (may be repeated)",
    )
    add("--tokens", type=int, default=8, metavar="N", help="tokens after the first (default: 8)")
    add("--requests", type=int, default=1, metavar="N", help="conversations at once (default: 1)")
    add("--quant", choices=tuple(KINDS), default="q4", help="how weights are stored (default: q4)")
    add("--context", type=int, default=2048, metavar="N", help="room for tokens (default: 2048)")
    add("--prompt", type=int, default=128, metavar="N", help="tokens of the prompt (default: 128)")
    add("--seed", type=int, default=0, help="same seed, same weather (default: 0)")
    add("--json", action="store_true", help="print one JSON object")


def simulate_command(args: argparse.Namespace) -> int:
    facts = facts_of(args.model)
    if bool(args.plan) == (args.tensor is not None or args.pipeline is not None):
        raise PlanError("which plan? give either --plan FILE, or --tensor T and --pipeline P")
    if args.plan:
        plan = Plan.load(Path(args.plan)).check(facts)
    else:
        tensor, pipeline = (1 if n is None else n for n in (args.tensor, args.pipeline))
        plan = even_plan(facts, tensor, pipeline)
    cluster = _cluster(args, plan.ranks)
    job = Job(kind=args.quant, context=args.context, prompt=args.prompt, new=args.tokens)
    weather = Weather(args.jitter, args.jitter, _stragglers(args.straggler), args.seed)
    simulated = simulate(facts, plan, cluster, job, weather, args.tokens, args.requests)
    Placed(plan, cluster, job).check_room(facts)
    cost = price(facts, plan, cluster, job)
    if args.json:
        print(json.dumps(describe(cost, simulated)))
    else:
        stages = f"{len(plan.stages)} stage{'s' * (len(plan.stages) > 1)}"
        show(f"{args.model} {args.quant}, {plan.ranks} ranks in {stages}", cost, simulated, args.requests)
    return 0


def _cluster(args: argparse.Namespace, ranks: int) -> Cluster:
    """The machines that the arguments name or describe, or those that --plan was made for."""
    described = args.cluster or any(getattr(args, name) for name in DESCRIPTION)
    placed = Placed.load(Path(args.plan)) if args.plan and not described else None
    return placed.cluster if placed else cluster_of(args, ranks)


def _stragglers(words: list[str]) -> dict[int, float]:
    """["3=2.0"]: rank 3 is twice as slow."""
    try:
        return {int(rank): float(factor) for rank, factor in (word.split("=") for word in words)}
    except ValueError:
        raise RunError(f"--straggler {' '.join(words)!r} must be RANK=FACTOR, such as 3=2.0") from None


def describe(cost: Cost, simulated: Simulated) -> dict[str, Any]:
    """Seconds, tokens a second, bytes; shares by rank."""
    simulation = asdict(simulated) | {
        "token": simulated.token,
        "p99": simulated.p99,
        "waiting": simulated.waiting,
        "wire_bytes": simulated.wire_bytes,
    }
    simulation["sent"] = [{"from": a, "to": b, "bytes": size} for (a, b), size in sorted(simulated.sent.items())]
    simulation["waited_for"] = [
        {"who": named(cause), "seconds": seconds}
        for cause, seconds in sorted(simulated.waited_for.items(), key=lambda item: -item[1])
    ]
    formula = {name: getattr(cost, name) for name in ("first_token", "token", "throughput")}
    return {"formula": formula, "simulation": simulation}


def named(cause: Cause) -> str:
    return f"rank {cause}" if isinstance(cause, int) else f"link {cause[0]}-{cause[1]}"


def share_of_slowest(simulated: Simulated) -> str:
    """Whom the others waited for most, and how much of all ranks' time that took."""
    if simulated.slowest is None:
        return "nobody"
    share = simulated.waited_for[simulated.slowest] / (simulated.seconds * len(simulated.computing))
    return f"{named(simulated.slowest)}, {share:.1%} of all ranks' time"


def show(title: str, cost: Cost, simulated: Simulated, requests: int) -> None:
    from rich.table import Table

    table = Table("", "formula", "simulation", title=title)
    table.add_row("first token", f"{cost.first_token:,.4g} s", f"{simulated.first_token:,.4g} s")
    table.add_row("token", f"{cost.token:,.4g} s", f"{simulated.token:,.4g} s")
    table.add_row("99 of 100 tokens within", "", f"{simulated.p99:,.4g} s")
    table.add_row(
        "tokens a second, one request", f"{1 / cost.token:,.4g}", "" if requests > 1 else f"{simulated.throughput:,.4g}"
    )
    table.add_row("as many as fill the pipeline", f"{cost.throughput:,.4g}", "")
    if requests > 1:
        table.add_row(f"{requests} requests", "", f"{simulated.throughput:,.4g}")
    shares = (("computing", simulated.computing), ("in messages", simulated.talking), ("waiting", simulated.waiting))
    for name, ranks in shares:
        spread = f"{sum(ranks) / len(ranks):.1%} ({min(ranks):.1%} to {max(ranks):.1%})"
        table.add_row(f"{name}, over the ranks", "", spread)
    table.add_row("waited for in sums", "", share_of_slowest(simulated))
    table.add_row("between ranks", "", f"{simulated.messages:,} messages, {simulated.wire_bytes / 1e6:,.1f} MB")
    console().print(table)
