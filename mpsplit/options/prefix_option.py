"""--prefix: what `mpsplit prefix add` kept, to begin with. In: arguments. Out: a KeptText."""

from __future__ import annotations

import argparse
from pathlib import Path

from mpsplit.comm import mpi_rank
from mpsplit.runtime.kept.kept_texts import PREFIXES, KeptText, folder_of


def add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="NAME", help="begin with what `mpsplit prefix add` kept under this name")


def prefix_of(args: argparse.Namespace) -> KeptText | None:
    """Rank 0 alone needs to have it; None on the others, and without --prefix."""
    if not args.prefix or mpi_rank():
        return None
    return KeptText.read(Path(args.package), folder_of(PREFIXES, args.prefix))
