"""`mpsplit bench`: how fast it runs here, and what holds it up.

In: a package, or the name of a shape. Out: a Speed, as text or JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mpsplit.comm import world
from mpsplit.errors import RunError
from mpsplit.export.model.named_shapes import SHAPES
from mpsplit.options.loop_options import add_engine
from mpsplit.options.machine_options import add_cluster, placed_of
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.package_argument import add_keys, hold_package, keys_of, package_for_ranks, stored_kind
from mpsplit.options.rank_options import add_ranks, add_threads, on_ranks, started_ranks, take_threads
from mpsplit.package.json_fields import one_of
from mpsplit.package.stored.quantisation import BLOCKS, KINDS, ROUNDED, Quantisation, coarseness
from mpsplit.package.together.exchanged import exchanged, plain


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("package", metavar="PACKAGE", nargs="?", help="the directory that convert finished")
    add("--random", metavar="SHAPE", help=f"random weights instead: {', '.join(SHAPES)}")
    add_ranks(parser)
    add_threads(parser)
    add("--quant", choices=ROUNDED, help="how --random stores weights (default: q4)")
    add("--block", type=int, choices=BLOCKS, default=32, help="of --random (default: 32)")
    add("--repeat", type=int, default=5, metavar="N", help="rounds after the one that warms up (default: 5)")
    add("--chunk", type=int, default=512, metavar="N", help="prompt tokens a step (default: 512)")
    add_cluster(parser)
    add_keys(parser)
    add_engine(parser)
    add("--json", action="store_true", help="print one JSON object")


def bench_command(args: argparse.Namespace) -> int:
    if bool(args.package) == bool(args.random):
        raise RunError("measure what? give either a PACKAGE or --random SHAPE")
    at_least_one(args, "ranks", "repeat", "chunk")
    take_threads(args)
    if args.random:
        args.package = _random_package(args)
    manifest = package_for_ranks(args)
    placed = placed_of(args, manifest)
    if (code := on_ranks(manifest.plan.ranks, args)) is not None:
        return code
    from mpsplit.measure.bench import LENGTHS, Bench, Work, measure, show
    from mpsplit.measure.report import speed_of
    from mpsplit.runtime.account.account import Account
    from mpsplit.runtime.account.account_tables import threads_text
    from mpsplit.runtime.engine.cores import share_of_cores
    from mpsplit.runtime.engine.engine_protocol import SHARED_WORK
    from mpsplit.runtime.load import load_engine

    comm = world()
    package = Path(args.package)
    # a rank without linears passes for f32
    stored = max(exchanged(comm, stored_kind(args), plain(one_of(KINDS))), key=coarseness)
    if args.quant not in (None, stored):
        raise RunError(f"{package} is stored as {stored}; run `mpsplit convert {package} --quant {args.quant}` first")
    work = Work.within(manifest.facts.context)
    if comm.rank == 0 and work.lengths != LENGTHS:
        lengths = " and ".join(map(str, work.lengths))
        room = f"room for prefill {lengths} and decode {work.new}"
        print(f"the context of {manifest.facts.context} has {room}", file=sys.stderr)
    hold_package(args)
    engine = load_engine(package, comm, args.engine, keys_of(args))
    bench = Bench(engine, comm, share_of_cores(comm.local_size), args.chunk, work)
    predicted = speed_of(manifest.facts, placed, stored, work, args.chunk) if placed else None
    speed = measure(bench, args.repeat, shape=manifest.model, quant=stored, predicted=predicted)
    shared = comm.all_gather(engine.shared_work).reshape(comm.size, -1).tolist()
    if comm.rank == 0:
        if args.json:
            print(json.dumps(asdict(speed)))
        else:
            show(speed)
        if short := threads_text([Account(**dict(zip(SHARED_WORK, row, strict=True))) for row in shared]):
            print(short, file=sys.stderr)
    return 0


def _random_package(args: argparse.Namespace) -> Path:
    """The package of --random, made by one rank of each host if it is not in the cache."""
    from mpsplit.export.model.named_shapes import find_shape
    from mpsplit.export.random_package import package_path, random_package

    wanted = (args.random, started_ranks(args) or 1, Quantisation.named(args.quant or "q4", args.block))
    find_shape(args.random)
    comm = world()
    if comm.host_lead:
        random_package(*wanted)
    comm.exchange(None)
    return package_path(*wanted)
