"""`mpsplit partition` of a model that goes in stages."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.comm import world
from mpsplit.commands.stages import held_by, show_stages
from mpsplit.errors import PlanError
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.plan_options import package_on_ranks
from mpsplit.options.rank_options import started_ranks
from mpsplit.options.stage_options import cut_of, first_given

DECODERS = ("tensor", "pipeline", "structure_only")  # options that say nothing of stages


def partition_stages_command(args: argparse.Namespace) -> int:
    from mpsplit.commands.staged.staged_plan import ends_of_file
    from mpsplit.export.model.model_source import find_model

    if wrong := first_given(args, DECODERS):
        raise PlanError(f"{wrong} is for decoders; a model in stages takes --ranks and --stages")
    at_least_one(args, "ranks")
    folder = find_model(args.model)
    ends, planned = ends_of_file(Path(args.plan)) if args.plan else (None, 1)
    ranks = started_ranks(args) or planned
    if ends and planned != ranks:
        raise PlanError(f"--plan {args.plan} is for {planned} ranks, {ranks} were asked for")
    if not args.serial and (code := package_on_ranks(ranks, args)) is not None:
        return code
    from mpsplit.export.stages.partition_stages import partition_stages
    from mpsplit.plan.stages.placing import even_ends

    comm = world()
    if comm.size not in (1, ranks):
        raise PlanError(f"{comm.size} ranks were started, the stages are for {ranks}; use `mpirun -np {ranks}`")
    began = time.perf_counter()
    model = cut_of(args, folder)
    most = min(ranks, len(model.stages)) if model.most_shards > 1 else ranks  # the others may have shards alone
    if ends and ends[-1] != len(model.stages):
        raise PlanError(f"--plan {args.plan} has {ends[-1]} stages, the model was cut into {len(model.stages)}")
    manifest, pipeline = partition_stages(
        model, ends or even_ends(model.costs, most), Path(args.out), comm, args.force, ranks
    )
    if comm.rank == 0:
        show_stages(pipeline)
        for rank, part in enumerate(manifest.ranks):
            print(f"rank {rank}: {held_by(pipeline, rank)}, {part.weight_bytes:,} bytes of weights")
        if manifest.unused:
            print(f"not used of the checkpoint: {', '.join(manifest.unused)}")
        print(f"partitioned into {args.out} in {time.perf_counter() - began:.1f} s; next: mpsplit convert {args.out}")
    return 0
