"""`mpsplit partition`: every rank's own slice, cut and traced.

In: a model, a plan. Out: a package that `convert` goes on with.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.commands.staged.staged_partition import partition_stages_command
from mpsplit.options.model_argument import add_model, own_kinds, with_own_blocks
from mpsplit.options.plan_options import add_plan, make_on_ranks, plan_for, world_of
from mpsplit.options.rank_options import add_launcher, add_serial
from mpsplit.options.stage_options import add_stages, goes_in_stages
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.sizes import Job


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_plan(parser)
    add_launcher(parser)
    add_stages(parser)
    parser.add_argument("--out", required=True, help="the package's directory")
    parser.add_argument(
        "--force", action="store_true", help="replace a whole package in --out; it stays until the new one is whole"
    )
    add_serial(parser)
    parser.add_argument(
        "--form",
        choices=("module", "operator"),
        default="module",
        help="how collectives stand in the .pt file; operator is for pnnx on this torch (./launch/setup pnnx)",
    )
    parser.add_argument(
        "--structure-only", action="store_true", help="config.json is enough: no weights need to be there"
    )


def partition_command(args: argparse.Namespace) -> int:
    from mpsplit.export.model.model_source import find_config, find_model, read_config

    if goes_in_stages(args):
        return partition_stages_command(args)
    folder = (find_config if args.structure_only else find_model)(args.model)
    facts = ModelFacts.from_config(read_config(folder))
    plan = plan_for(args, facts, with_own_blocks(Job(), facts, own_kinds(folder)))
    if not args.serial and (code := make_on_ranks(plan, args)) is not None:
        return code
    from mpsplit.export.partition import partition

    comm = world_of(plan)
    began = time.perf_counter()
    placed = Placed.load(Path(args.plan)) if args.plan else None
    manifest = partition(folder, plan, Path(args.out), comm, args.form, placed, args.structure_only, args.force)
    if comm.rank == 0:
        for rank, part in enumerate(manifest.ranks):
            print(f"rank {rank}: {part.weight_bytes:,} bytes of weights, {len(part.schedule)} collectives")
        if manifest.unused:
            print(f"not used of the checkpoint: {', '.join(manifest.unused)}")
        print(f"partitioned into {args.out} in {time.perf_counter() - began:.1f} s; next: mpsplit convert {args.out}")
    return 0
