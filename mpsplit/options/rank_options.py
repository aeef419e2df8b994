"""How many ranks, where, with how many threads: --ranks, --hostfile, --threads, --serial.

In: arguments. Out: this command on its ranks.

Commands that need ranks check their input first and then start themselves under mpirun, unless they
are there already.
"""

from __future__ import annotations

import argparse
import os

from mpsplit import mpirun
from mpsplit.comm import mpi_rank, mpi_size
from mpsplit.options.number_checks import at_least_one


def add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks to start (not needed under mpirun)")
    parser.add_argument("--hostfile", metavar="FILE", help="Open MPI hostfile to start the ranks on")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="T", help="threads a rank (default: an equal share of the cores)"
    )


def add_serial(parser: argparse.ArgumentParser) -> None:
    """With it, a command leaves `under_mpirun` out."""
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


def under_mpirun(
    ranks: int, args: argparse.Namespace, reads_input: bool = False, ends_itself: bool = False
) -> int | None:
    """The exit code of this command started again on `ranks` ranks; None when it runs in the right
    place already."""
    if ranks == 1 or mpi_rank() is not None:
        return None
    return mpirun.start(ranks, args.given, args.hostfile, reads_input, ends_itself)
