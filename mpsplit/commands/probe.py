"""`mpsplit probe`: the machines and the links between them, measured.

In: one rank on each machine. Out: cluster.json, for `plan`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from mpsplit.comm import mpi_rank, world
from mpsplit.errors import RunError
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.rank_options import add_ranks, add_threads, on_ranks, take_threads


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="FILE", help="the cluster.json to write")
    add_ranks(parser)
    add_threads(parser)
    add("--hidden", type=int, default=4096, metavar="N", help="floats of an all_reduce (default: 4096)")
    add("--disk", default=".", metavar="DIR", help="folder on the disk to measure (default: this one)")
    add("--json", action="store_true", help="print the file's JSON instead of a table")


def probe_command(args: argparse.Namespace) -> int:
    at_least_one(args, "ranks", "hidden")
    out = Path(args.out)
    if mpi_rank() in (None, 0):
        _check_writable(out)
    take_threads(args)
    if (code := on_ranks(args.ranks or 1, args)) is not None:
        return code
    from mpsplit.measure.probe import probe, show
    from mpsplit.package.whole_files import beside
    from mpsplit.plan.cluster_json import save_cluster, to_json
    from mpsplit.runtime.engine.cores import share_of_cores

    comm = world()
    began = time.perf_counter()
    cluster = probe(comm, share_of_cores(comm.local_size), Path(args.disk), args.hidden)
    if comm.rank == 0:
        with beside(out) as partial:
            save_cluster(cluster, partial)
        if args.json:
            print(json.dumps(to_json(cluster)))
        else:
            show(cluster)
            print(f"measured in {time.perf_counter() - began:.1f} s; {out} is written")
    comm.wait()
    return 0


def _check_writable(out: Path) -> None:
    """Before the work, not after it."""
    from tempfile import TemporaryFile

    if out.is_dir():
        raise RunError(f"{out} is a folder; give --out the name of a file")
    try:
        TemporaryFile(dir=out.parent).close()
    except OSError as wrong:
        raise RunError(f"{out} cannot be written ({wrong.strerror}); give --out a file in a folder that can") from None
