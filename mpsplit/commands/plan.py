"""`mpsplit plan`: who owns what on these machines, why, and how fast it will be.

In: parsed arguments. Out: a Placed plan, text, pictures.

A plan is what the user says (--pin, --plan, --tensor and --pipeline), or the best there is.
Everything comes from config.json and the machines' description. Invariant: no weights are needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsplit.commands.staged.staged_plan import plan_stages_command
from mpsplit.errors import PlanError
from mpsplit.options.machine_options import add_machines, cluster_of
from mpsplit.options.model_argument import add_model, facts_of, own_kinds, with_own_blocks
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.plan_options import add_factors, factors
from mpsplit.options.stage_options import add_stages, goes_in_stages
from mpsplit.package.stored.quantisation import BLOCKS, ROUNDED, Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.whole_files import told_if_not_written
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.pin import pinned
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan, even_plan
from mpsplit.progress import console

GOALS = {
    "token": "seconds a token of one conversation",
    "first-token": "seconds until the first token",
    "throughput": "tokens a second of many conversations",
    "memory": "memory on the fullest machine",
}
SHOWN = 5  # names of machines in a sentence


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_argument
    add("--ranks", type=int, metavar="N", help="how many machines there are, where no file tells")
    add_machines(parser)
    add("--goal", choices=tuple(GOALS), default="token", help="what is to be best (default: seconds a token)")
    add("--pin", metavar="TEXT", help='your own plan: "embed=0; layers 0-9=0,1; layers 10-31=2; head=2"')
    add("--plan", metavar="FILE", help="an earlier plan.json, to check and price it")
    add_factors(parser)
    add_stages(parser)
    add("--quant", choices=ROUNDED, help="how weights are stored (default: a GGUF file's own blocks, else q4)")
    add("--block", type=int, choices=BLOCKS, default=32, help="weights that share a scale (default: 32)")
    add("--context", type=int, metavar="N", help="room for tokens (default: the model's)")
    add("--prompt", type=int, default=128, metavar="N", help="tokens of the prompt (default: 128)")
    add("--new", type=int, default=64, metavar="N", help="tokens of the answer (default: 64)")
    add("--chunk", type=int, default=128, metavar="N", help="prompt tokens a step (default: 128)")
    add("--compare", action="store_true", help="a table: the best plans, even ones, one machine alone")
    add("--dry-run", action="store_true", help="say it, and write nothing")
    add("--out", metavar="FILE", help="write plan.json, for partition")
    add("--draw", metavar="FILE", help="draw the plan, as SVG")
    add("--hosts", metavar="DIR", help="write hostfile and rankfile, and say the mpirun line")
    add("--json", action="store_true", help="print the plan as JSON")


def plan_command(args: argparse.Namespace) -> int:
    if goes_in_stages(args):
        return plan_stages_command(args)
    at_least_one(args, "ranks", "tensor", "pipeline")
    facts = facts_of(args.model)
    ranks = args.ranks or (args.tensor or 1) * (args.pipeline or 1) * bool(args.tensor or args.pipeline)
    kinds = _kept(args)
    cluster, job = cluster_of(args, ranks), _job(args, facts, kinds)
    if args.compare:
        rows = _compared(facts, cluster, job, args.goal)
        print(json.dumps(rows)) if args.json else _show_comparison(rows)
        return 0
    chosen = _choose(args, facts, cluster, job)
    if kinds:
        from mpsplit.export.model.gguf.gguf_blocks import recipe_of
        from mpsplit.export.weights.block_cuts import check_file_blocks

        check_file_blocks(chosen.placed.plan, facts, recipe_of(kinds, Recipe()))
    if args.json:
        print(json.dumps(chosen.placed.to_json()))
    else:
        _show(chosen, facts, args.model)
    if not args.dry_run:
        _write(chosen, facts, args)
    return 0


def _kept(args: argparse.Namespace) -> dict[str, Quantisation]:
    """How a file has its linears, where they are kept so."""
    from mpsplit.export.model.model_source import find_config
    from mpsplit.export.model.named_shapes import SHAPES

    return {} if args.quant or args.model in SHAPES else own_kinds(find_config(args.model))


def _job(args: argparse.Namespace, facts: ModelFacts, kinds: dict[str, Quantisation]) -> Job:
    context = args.context or facts.context
    if not 0 < context <= facts.context:
        raise PlanError(
            f"--context {context} is out of range; the model has {facts.context}, so give 1 to {facts.context}"
        )
    at_least_one(args, "prompt", "new", "chunk")
    prompt = max(1, min(args.prompt, context - 1))
    job = Job(args.quant or "q4", args.block, context, prompt, max(1, min(args.new, context - prompt)), args.chunk)
    return with_own_blocks(job, facts, kinds)


@dataclass(frozen=True)
class ChosenPlan:
    """`why`: what was searched, or whose choice it is. `warning`: why another plan may be wanted.

    The warning is empty where there is nothing to say.
    """

    placed: Placed
    cost: Cost
    why: str
    warning: str = ""


def _choose(args: argparse.Namespace, facts: ModelFacts, cluster: Cluster, job: Job) -> ChosenPlan:
    """The user's own plan, checked and priced; otherwise the best.

    Either is held against fewer machines.
    """
    from mpsplit.plan.solve.alternatives import Alternative, alone, fewer_are_faster
    from mpsplit.plan.solve.solver import MOST_DEVICES, best, solve

    named = _named_plan(args, facts, cluster, job)
    if named:
        plan, devices = named
        placed, why = Placed(plan, cluster.only(devices), job).check_room(facts), "as it was asked for"
        free = best(facts, cluster, job, "token") if cluster.size <= MOST_DEVICES else None
        others = [Alternative("the best plan", free, cluster)] if free else []
    else:
        solution = solve(facts, cluster, job, args.goal)
        devices, others = solution.devices, []
        placed = Placed(solution.plan, cluster.only(devices), job)
        why = f"the best for {GOALS[args.goal]}, of {solution.searched}" + _without(solution.left_out, cluster)
    cost = placed.price(facts)
    others += alone(facts, cluster, job)
    return ChosenPlan(placed, cost, why, fewer_are_faster(cost, devices, cluster, others))


def _without(left_out: Sequence[int], cluster: Cluster) -> str:
    names = [cluster.devices[i].name for i in left_out]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"; without {shown}, which would not make it better" if names else ""


def _named_plan(
    args: argparse.Namespace, facts: ModelFacts, cluster: Cluster, job: Job
) -> tuple[Plan, tuple[int, ...]] | None:
    """The plan that the user names, and the device of each rank."""
    given = [name for name in ("pin", "plan", "tensor", "pipeline") if getattr(args, name)]
    if len(set(given) - {"pipeline"}) > 1:
        raise PlanError(f"{' and '.join(f'--{name}' for name in given)} each say what the plan is; give one of them")
    if not given:
        return None
    if args.pin:
        return pinned(facts, args.pin, cluster, job)
    if args.plan:
        plan = Plan.load(Path(args.plan)).check(facts)
    else:
        tensor, pipeline = factors(args, cluster.size)
        plan = even_plan(facts, tensor, pipeline, job.steps(facts, max(tensor, 1)))
    if plan.ranks > cluster.size:
        raise PlanError(
            f"the plan has {plan.ranks} ranks, there are {cluster.size} devices; give it fewer, or probe more"
        )
    return plan, tuple(range(plan.ranks))


def _show(chosen: ChosenPlan, facts: ModelFacts, model: str) -> None:
    from mpsplit.plan.draw.plan_text import text

    placed = chosen.placed
    if chosen.warning:
        print(chosen.warning)
    print(text(facts, placed.plan, placed.cluster, placed.job, chosen.cost, _name(model)), end="")
    print(chosen.why)
    if line := _checkpoint(model):
        print(line)


def _write(chosen: ChosenPlan, facts: ModelFacts, args: argparse.Namespace) -> None:
    """The files that were asked for, and what to do with them."""
    from mpsplit.plan import host_files
    from mpsplit.plan.draw.plan_svg import svg

    placed, name = chosen.placed, _name(args.model)
    package = f"build/{name}"
    if args.out:
        with told_if_not_written("--out", args.out):
            placed.save(Path(args.out))
        next_step = f"mpsplit partition {args.model} --plan {args.out} --out {package}"
        print(f"written to {args.out}; next: {next_step}", file=sys.stderr)
    if args.draw:
        picture = svg(facts, placed.plan, placed.cluster, placed.job, chosen.cost, name)
        with told_if_not_written("--draw", args.draw):
            Path(args.draw).write_text(picture, encoding="utf-8")
        print(f"drawn in {args.draw}", file=sys.stderr)
    if args.hosts:
        program = ("mpsplit", "run", package, "--prompt", "Hello")
        with told_if_not_written("--hosts", args.hosts, "folder"):
            started = host_files.write(placed.plan, placed.cluster, Path(args.hosts), program)
        print(f"{started.hostfile} and {started.rankfile} are for:\n{started.command}", file=sys.stderr)


def _name(model: str) -> str:
    return Path(model).resolve().name


def _checkpoint(model: str) -> str:
    """What there is to download or to read, as far as headers and index tell."""
    from mpsplit.export.model.model_source import find_config, stored
    from mpsplit.export.model.named_shapes import SHAPES

    checkpoint = None if model in SHAPES else stored(find_config(model))
    if not checkpoint:
        return ""
    types = f" of {', '.join(checkpoint.types)}" if checkpoint.types else ""
    return f"the checkpoint has {checkpoint.size / 1e9:.3g} GB{types}; each rank reads its own part of them only"


def _compared(facts: ModelFacts, cluster: Cluster, job: Job, goal: str) -> list[dict[str, Any]]:
    """The plans of the table that fit, the best first."""
    from mpsplit.plan.solve.alternatives import alternatives

    rows = []
    for alternative in alternatives(facts, cluster, job, goal):
        plan, cost = alternative.solution.plan, alternative.solution.cost
        rows.append(
            {
                "name": alternative.name,
                "ranks": plan.ranks,
                "machines": alternative.machines,
                "stages": [len(group) for group in plan.stages],
                "token_s": cost.token,
                "first_token_s": cost.first_token,
                "throughput": cost.throughput,
                "fullest_bytes": max(memory.total for memory in cost.memory),
                "payload": cost.payload,
            }
        )
    return rows


def _show_comparison(rows: Sequence[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(
        "plan", "ranks a stage", "tok/s", "first token", "tok/s, many requests", "fullest rank", "KiB a token"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        stages = " + ".join(map(str, row["stages"])) if len(row["stages"]) <= SHOWN else f"{len(row['stages'])} stages"
        table.add_row(
            row["name"], stages, f"{1 / row['token_s']:,.2f}", f"{row['first_token_s']:,.2f} s",
            f"{row['throughput']:,.2f}", f"{row['fullest_bytes'] / 2**30:,.2f} GiB", f"{row['payload'] / 1024:,.0f}",
        )  # fmt: skip
    console().print(table)
