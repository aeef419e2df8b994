"""PACKAGE, and the key that opens it: --key-file, --key-command.

In: arguments. Out: a manifest that fits the ranks, or a refusal.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mpsplit.comm import mpi_rank, world
from mpsplit.options.rank_options import started_ranks
from mpsplit.package.manifest import MANIFEST, Manifest
from mpsplit.package.sealed.keys import KeySource
from mpsplit.package.stages.built import NCNN
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.stored.quantisation import FLOAT, kind_of
from mpsplit.package.together.package_lock import held


def add_package(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", metavar="PACKAGE", help="the directory that partition made")


def add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file", metavar="FILE", help="the key: 32 bytes or 64 hex digits (default: what MPSPLIT_KEY holds)"
    )
    parser.add_argument(
        "--key-command", metavar="CMD", help="a command that prints the key (default: that of MPSPLIT_KEY_COMMAND)"
    )


def keys_of(args: argparse.Namespace) -> KeySource:
    return KeySource(args.key_file, args.key_command)


def package_for_ranks(args: argparse.Namespace, name: str = MANIFEST) -> Manifest:
    """Its manifest, when it has as many ranks as were asked for and its key is there."""
    from mpsplit.runtime.load import check_ranks

    package = Path(args.package)
    manifest = Manifest.load(package, name)
    if (started := started_ranks(args)) is not None:
        check_ranks(manifest, package, started)
    if name == MANIFEST and mpi_rank() is None:  # before the ranks are started, which look for the key again
        from mpsplit.package.sealed.opened import vault_of

        vault_of(package, manifest, keys_of(args))
    return manifest


def stages_for_ranks(args: argparse.Namespace) -> StageManifest:
    """The same of a pipeline of stages, which is never sealed."""
    from mpsplit.package.sealed.opened import demand_no_key

    demand_no_key(Path(args.package), keys_of(args))
    manifest = StageManifest.load(Path(args.package))
    if (started := started_ranks(args)) is not None:
        manifest.check_ranks(Path(args.package), started)
    return manifest


def hold_package(args: argparse.Namespace) -> None:
    """Until the command ends, nobody writes the package; one rank of each host holds it for all."""
    if world().host_lead:
        args.until_end.enter_context(held(Path(args.package), "run"))


def stored_kind(args: argparse.Namespace) -> str:
    """How this rank's linears are stored."""
    from mpsplit.package.sealed.opened import graph_of

    package = Path(args.package)
    manifest = Manifest.load(package)
    if manifest.compiler != NCNN:
        return FLOAT.kind
    return kind_of(graph_of(package, manifest, mpi_rank() or 0, keys_of(args)))
