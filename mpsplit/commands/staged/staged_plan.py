"""`mpsplit plan` of a model that goes in stages: which rank runs which, priced."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from mpsplit.errors import PlanError
from mpsplit.options.machine_options import cluster_of
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.stage_options import cut_of, first_given
from mpsplit.package.whole_files import json_text, read_json, told_if_not_written
from mpsplit.plan.stages.placing import StageCost, StagePlan, placed
from mpsplit.plan.stages.sharing import with_shards
from mpsplit.progress import console

DECODERS = ("pin", "plan", "tensor", "pipeline", "compare", "draw", "hosts")
STAGE_ENDS = "stage_ends"


def plan_stages_command(args: argparse.Namespace) -> int:
    from mpsplit.export.model.model_source import find_config

    if wrong := first_given(args, DECODERS):
        raise PlanError(f"{wrong} is for decoders; a model in stages takes --ranks, --cluster and --stages")
    at_least_one(args, "ranks")
    cluster = cluster_of(args, args.ranks)
    if args.ranks:
        cluster = cluster.only(range(args.ranks))
    model = cut_of(args, find_config(args.model))
    kind, own = args.quant or "f32", cluster
    if model.most_shards > 1:  # some may have shards alone
        own = cluster.only(range(min(cluster.size, len(model.stages))))
    plan = placed(model.costs, own, kind)
    if args.shards:
        plan = with_shards(plan, model.part_costs(plan.ends, cluster.size), cluster)
    if args.json:
        print(json.dumps(plan.to_json()))
    else:
        _show(plan, model.costs, model.architecture)
    if args.out and not args.dry_run:
        with told_if_not_written("--out", args.out):
            Path(args.out).write_text(json_text({STAGE_ENDS: list(plan.ends)} | plan.to_json()), encoding="utf-8")
        wish = f" --stages {args.stages}" if args.stages else ""
        wish += "".join(f" --shards {shlex.quote(shards)}" for shards in args.shards)
        print(
            f"written to {args.out}; next: mpsplit partition {args.model}{wish} --plan {args.out} --out"
            f" build/{Path(args.model).resolve().name}",
            file=sys.stderr,
        )
    return 0


def ends_of_file(path: Path) -> tuple[tuple[int, ...], int]:
    """Where each rank's stages end, of a plan.json that this command wrote, and how many ranks
    there are: some may have shards alone."""
    data: dict[str, Any] = read_json(path, "make it with `mpsplit plan MODEL --out FILE`")
    ends = data.get(STAGE_ENDS)
    whole = isinstance(ends, list) and all(type(end) is int for end in ends)
    if not whole or not ends or ends != sorted(set(ends)) or ends[0] < 1:
        raise PlanError(f"{path} is no plan of stages; make one with `mpsplit plan MODEL --stages N --out {path}`")
    ranks = data.get("ranks")
    return tuple(ends), max(len(ends), len(ranks) if isinstance(ranks, list) else 0)


def _show(plan: StagePlan, costs: list[StageCost], architecture: str) -> None:
    from rich.table import Table

    shared = any(share.shards for share in plan.ranks)
    helping = ["others' shards", "ms for them"] if shared else []
    table = Table("rank", "machine", "stages", "from .. to", "bytes", "ms", "hand-over ms", *helping)
    for column in table.columns[4:]:
        column.justify = "right"
    for rank, share in enumerate(plan.ranks):
        run = f"{costs[share.first].name} .. {costs[share.last - 1].name}" if share.first < share.last else "none"
        helps = [f"{share.shards}", f"{share.help_s * 1e3:,.1f}"] if shared else []
        table.add_row(
            str(rank), share.device, f"{share.last - share.first}", run, f"{share.weights:,}",
            f"{share.compute_s * 1e3:,.1f}", f"{share.handover_s * 1e3:,.2f}", *helps,
        )  # fmt: skip
    guessed = "" if plan.measured else "; nobody measured these machines, so times are guesses"
    print(
        f"{architecture} in {plan.kind}: {len(costs)} stages on {len(plan.ranks)} ranks, {plan.throughput:,.1f} inputs"
        f" a second when the pipeline is full, {plan.latency * 1e3:,.1f} ms for one{guessed}"
    )
    console().print(table)
