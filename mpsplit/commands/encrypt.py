"""`mpsplit encrypt` and `mpsplit decrypt`: a package's files sealed, or opened.

In: a package, a key. Out: another package; this one stays.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.comm import mpi_rank
from mpsplit.options.package_argument import add_keys, add_package, keys_of


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    add_keys(parser)


def encrypt_command(args: argparse.Namespace) -> int:
    return _copy(args, "encrypt")


def decrypt_command(args: argparse.Namespace) -> int:
    return _copy(args, "decrypt")


def _copy(args: argparse.Namespace, what: str) -> int:
    from mpsplit.package.sealed import encryption

    if mpi_rank():
        return 0  # one rank of an mpirun does it
    began = time.perf_counter()
    made = getattr(encryption, what)(Path(args.package), Path(args.out), keys_of(args).find())
    seconds, size = time.perf_counter() - began, sum(file.size for file in made.files)
    print(f"{what}ed {len(made.files)} files, {size:,} bytes, into {args.out} in {seconds:.1f} s")
    return 0
