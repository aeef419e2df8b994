"""From a folder to a token loop on this rank. In: a package, a communicator. Out: TokenLoop; refuses what does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest
from mpsplit.runtime.cores import share_of_cores
from mpsplit.runtime.dump import Dump, Dumping
from mpsplit.runtime.engine import Engine
from mpsplit.runtime.generate import TokenLoop
from mpsplit.runtime.native_engine import NativeEngine, missing
from mpsplit.runtime.orders import DUMPING, LEAD, VERSION, greet
from mpsplit.runtime.stock import StockEngine
from mpsplit.runtime.text import load_text

ENGINES = {"native": NativeEngine, "stock": StockEngine}


def check_ranks(manifest: Manifest, package: Path, ranks: int) -> None:
    needed = manifest.plan.ranks
    if ranks != needed:
        raise RunError(
            f"{package} is split over {needed} ranks, {ranks} were started; use `mpirun -np {needed}` or leave mpirun out"
        )


def load_engine(package: Path, comm: Communicator, engine: str | None = None) -> Engine:
    """Checks this rank's files and loads them; without a wish, into the native engine where there is one."""
    manifest = Manifest.load(package)
    check_ranks(manifest, package, comm.size)
    manifest.check_files(package, comm.rank)
    return ENGINES[engine or _best_engine(comm)](package, manifest, comm, share_of_cores(comm.local_size))


def _best_engine(comm: Communicator) -> str:
    why = missing(comm)
    if why and comm.rank == 0:
        print(f"mpsplit: {why}; going on with the stock engine, which is slower", file=sys.stderr)
    return "stock" if why else "native"


def load_loop(
    package: Path, comm: Communicator, chunk: int = 128, engine: str | None = None, dump: Dump | None = None
) -> TokenLoop:
    if chunk < 1:
        raise RunError(f"--chunk {chunk} is out of range; it must be at least 1")
    loaded = load_engine(package, comm, engine)
    greet(loaded, comm, DUMPING if dump else VERSION)
    if dump:
        loaded = Dumping(loaded, package, comm, dump)
    return TokenLoop(loaded, comm, load_text(package) if comm.rank == LEAD else None, chunk)
