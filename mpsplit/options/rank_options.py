"""How many ranks, where, who starts them, with how many threads: --ranks, --hostfile, --launcher,
--threads, --serial.

In: arguments. Out: this command on its ranks.

Commands that need ranks check their input first and then start themselves on them, by mpirun or by
Ray, unless they are there already.
"""

from __future__ import annotations

import argparse
import os

from mpsplit import mpirun
from mpsplit.comm import mpi_rank, mpi_size
from mpsplit.errors import LaunchError
from mpsplit.options.number_checks import at_least_one
from mpsplit.options.rank_needs import needs_of

MPIRUN, RAY = "mpirun", "ray"


def add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks to start (not needed under mpirun)")
    parser.add_argument("--hostfile", metavar="FILE", help="Open MPI hostfile to start the ranks on")
    parser.set_defaults(launcher=MPIRUN)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """For commands that Ray may start as well."""
    parser.add_argument(
        "--launcher",
        choices=(MPIRUN, RAY),
        default=MPIRUN,
        help="who starts the ranks: mpirun, or the Ray cluster of RAY_ADDRESS or this machine (default: mpirun)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="T", help="threads a rank (default: an equal share of the cores)"
    )


def add_serial(parser: argparse.ArgumentParser) -> None:
    """With it, a command leaves `on_ranks` out."""
    parser.add_argument(
        "--serial", action="store_true", help="all ranks one after the other in this process, without MPI"
    )


def started_ranks(args: argparse.Namespace) -> int | None:
    """How many ranks the user asked for by mpirun or --ranks; None for neither."""
    at_least_one(args, "ranks")
    return args.ranks if mpi_rank() is None else mpi_size()


def take_threads(args: argparse.Namespace) -> None:
    """--threads, of this process or the ranks it starts."""
    at_least_one(args, "threads")
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)


def run_on_ranks(
    ranks: int, given: list[str], args: argparse.Namespace, reads_input: bool = False, ends_itself: bool = False
) -> mpirun.Ended:
    """`mpsplit GIVEN` on `ranks` ranks, started by --launcher; `reads_input` and `ends_itself` as
    mpirun.run has them."""
    if args.launcher == MPIRUN:
        return mpirun.run(ranks, given, args.hostfile, reads_input, ends_itself)
    assert not reads_input, "Ray's ranks read no input"
    if args.hostfile:
        raise LaunchError(f"--hostfile {args.hostfile} is for mpirun, Ray knows its nodes; leave one of the two out")
    from mpsplit.launchers import ray_ranks

    return ray_ranks.run(needs_of(args, ranks), given, ends_itself)


def on_ranks(ranks: int, args: argparse.Namespace, reads_input: bool = False, ends_itself: bool = False) -> int | None:
    """The exit code of this command started again on `ranks` ranks; None when it runs in the right
    place already."""
    if mpi_rank() is not None or (ranks == 1 and args.launcher == MPIRUN):
        return None
    return mpirun.code_of(run_on_ranks(ranks, args.given, args, reads_input, ends_itself))
