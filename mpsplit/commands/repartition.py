"""`mpsplit repartition`: a package for another plan.

In: a package, a plan. Out: another package, every weight as it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.options.package_argument import add_package
from mpsplit.options.plan_options import add_plan, make_on_ranks, plan_for, world_of
from mpsplit.options.rank_options import add_serial
from mpsplit.package.manifest import Manifest
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.sizes import Job


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_plan(parser)
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="the new package's directory")
    parser.add_argument(
        "--force", action="store_true", help="replace a whole package in --out; it stays until the new one is whole"
    )
    add_serial(parser)


def repartition_command(args: argparse.Namespace) -> int:
    from mpsplit.export.graph.pnnx import find_pnnx

    package, out = Path(args.package), Path(args.out)
    old = Manifest.load(package)
    old.demand_ncnn(package)
    plan, pnnx = plan_for(args, old.facts, Job()), find_pnnx()
    if not args.serial and (code := make_on_ranks(plan, args)) is not None:
        return code
    from mpsplit.export.repartition import needed, repartition

    comm = world_of(plan)
    began = time.perf_counter()
    placed = Placed.load(Path(args.plan)) if args.plan else None
    made = repartition(package, plan, out, comm, pnnx, placed, args.force)
    if comm.rank == 0 and made.manifest:
        for shard, part, read in zip(plan.shards, made.manifest.ranks, made.read, strict=True):
            ranks = ", ".join(map(str, needed(old.plan, [shard])))
            size = sum(file.size for file in part.files)
            print(f"rank {shard.rank}: {size:,} bytes; read {read:,} of rank {ranks} of {package}")
        print(f"repartitioned {package} into {out} in {time.perf_counter() - began:.1f} s, every weight as it was")
    return 0
