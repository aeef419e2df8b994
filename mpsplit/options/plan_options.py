"""The plan that a package is made for: --tensor and --pipeline, --ranks, or --plan.

In: arguments. Out: a Plan, and this command on its ranks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mpsplit.comm import Communicator, world
from mpsplit.errors import PlanError
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.rank_options import add_ranks, on_ranks, started_ranks
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan, even_plan


def add_factors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tensor", type=int, metavar="T", help="ranks that share each layer")
    parser.add_argument("--pipeline", type=int, metavar="P", help="stages that follow each other")


def add_plan(parser: argparse.ArgumentParser) -> None:
    """All that `plan_for` reads."""
    add_factors(parser)
    add_ranks(parser)
    parser.add_argument("--plan", help="a plan.json instead of --tensor and --pipeline")


def factors(args: argparse.Namespace, ranks: int | None) -> tuple[int, int]:
    """--tensor and --pipeline; what is not given follows from the number of ranks."""
    pipeline = args.pipeline or (1 if not (args.tensor and ranks) else max(1, ranks // args.tensor))
    tensor = args.tensor or max(1, (ranks or pipeline) // pipeline)
    if ranks and tensor * pipeline != ranks:
        raise PlanError(
            f"--tensor {tensor} x --pipeline {pipeline} makes {tensor * pipeline} ranks, {ranks} were asked for"
        )
    return tensor, pipeline


def plan_for(args: argparse.Namespace, facts: ModelFacts, job: Job) -> Plan:
    at_least_one(args, "ranks", "tensor", "pipeline")
    if args.plan:
        plan = Plan.load(Path(args.plan)).check(facts)
        if idle := [f"--{name}" for name in ("tensor", "pipeline") if getattr(args, name)]:
            raise PlanError(f"--plan {args.plan} says what the plan is; leave {' and '.join(idle)} out")
        if args.ranks not in (None, plan.ranks):
            raise PlanError(
                f"--plan {args.plan} is for {plan.ranks} ranks, {args.ranks} were asked for; leave --ranks out"
            )
        return plan
    ranks = started_ranks(args)
    if not (ranks or args.tensor or args.pipeline):
        raise PlanError("over how many ranks? give --ranks N, or --tensor T and --pipeline P, or --plan FILE")
    tensor, pipeline = factors(args, ranks)
    return even_plan(facts, tensor, pipeline, job.steps(facts, max(tensor, 1)))


def make_on_ranks(plan: Plan, args: argparse.Namespace) -> int | None:
    return package_on_ranks(plan.ranks, args)


def package_on_ranks(ranks: int, args: argparse.Namespace) -> int | None:
    """`on_ranks`, of a command that makes a package in --out.

    When it fails, nothing half-written stays there.
    """
    from mpsplit.export.unfinished_folders import forget

    code = on_ranks(ranks, args)
    if code:
        # of ranks that were killed in the middle of a long call
        forget(Path(args.out))
    return code


def world_of(plan: Plan) -> Communicator:
    """All ranks of the plan, or this process for all of them."""
    comm = world()
    if comm.size not in (1, plan.ranks):
        raise PlanError(f"the plan has {plan.ranks} ranks, {comm.size} were started; use `mpirun -np {plan.ranks}`")
    return comm
