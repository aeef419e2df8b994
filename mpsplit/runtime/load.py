"""From a folder to a token loop on this rank.

In: a package, a communicator. Out: TokenLoop; refuses what does not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest, package_number
from mpsplit.package.sealed.keys import KeySource
from mpsplit.package.sealed.opened import ENVIRONMENT, demand_sealed, opened, opened_rank
from mpsplit.package.stages.built import IREE
from mpsplit.runtime.engine.cores import share_of_cores
from mpsplit.runtime.engine.dump import Dump, Dumping
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.engine.native_engine import NativeEngine, missing
from mpsplit.runtime.engine.stock_engine import StockEngine
from mpsplit.runtime.loop.orders import DUMPING, LEAD, VERSION, greet
from mpsplit.runtime.loop.token_loop import TokenLoop
from mpsplit.runtime.talk.text import Text, load_text

ENGINES: dict[str, Callable[[Path, Manifest, Communicator, int], Engine]] = {
    "native": NativeEngine,
    "stock": StockEngine,
}


def check_ranks(manifest: Manifest, package: Path, ranks: int) -> None:
    needed = manifest.plan.ranks
    if ranks != needed:
        raise RunError(
            f"{package} is split over {needed} ranks, {ranks} were started; use `mpirun -np {needed}` or --ranks"
            f" {needed}, or leave both out"
        )


def load_engine(package: Path, comm: Communicator, engine: str | None = None, keys: KeySource = ENVIRONMENT) -> Engine:
    """Checks this rank's files and loads them; without a wish, into the native engine where there
    is one."""
    manifest = Manifest.load(package)
    check_ranks(manifest, package, comm.size)
    manifest.check_files(package, comm.rank)
    if manifest.compiler == IREE:
        return _by_iree(package, manifest, comm, engine, keys)
    make = ENGINES[engine or _best_engine(comm)]
    with opened_rank(package, manifest, comm.rank, keys) as folder:
        return make(folder, manifest, comm, share_of_cores(comm.local_size))


def _by_iree(package: Path, manifest: Manifest, comm: Communicator, engine: str | None, keys: KeySource) -> Engine:
    if engine:
        raise RunError(f"{package} was compiled by IREE, and runs by it alone; leave --engine {engine} out")
    demand_sealed(package, manifest, keys)
    try:
        from mpsplit.runtime.iree.iree_engine import IreeEngine
    except ImportError as wrong:
        raise RunError(
            f"IREE compiled this package, and its runtime is not here ({wrong}); pip install 'mpsplit[iree]'"
        ) from None
    return IreeEngine(package, manifest, comm, share_of_cores(comm.local_size))


def _best_engine(comm: Communicator) -> str:
    why = missing(comm)
    if why and comm.rank == 0:
        print(f"mpsplit: {why}; going on with the stock engine, which is slower", file=sys.stderr)
    return "stock" if why else "native"


def load_loop(
    package: Path,
    comm: Communicator,
    chunk: int = 128,
    engine: str | None = None,
    dump: Dump | None = None,
    keys: KeySource = ENVIRONMENT,
    most: int = 8,
    waiting: int = 64,
) -> TokenLoop:
    if chunk < 1:
        raise RunError(f"--chunk {chunk} is out of range; it must be at least 1")
    loaded = load_engine(package, comm, engine, keys)
    greet(loaded, comm, DUMPING if dump else VERSION, package_number(package))
    if dump:
        loaded = Dumping(loaded, package, comm, dump)
    text = load_package_text(package, loaded.manifest, keys) if comm.rank == LEAD else None
    return TokenLoop(loaded, comm, text, chunk, most, waiting, package)


def load_package_text(package: Path, manifest: Manifest, keys: KeySource) -> Text | None:
    with opened(package, manifest, manifest.tokenizer, keys) as folder:
        return load_text(folder)
