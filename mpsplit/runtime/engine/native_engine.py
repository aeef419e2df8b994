"""The native engine: a thin face on the C++ of extensions/engine.

Fast, and the default wherever it was built.

In: a package, a communicator of extensions/comm (or no peers). Out: an Engine. A step runs without
the GIL; only its logits are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from mpsplit.comm import Alone, Communicator, Native
from mpsplit.errors import RunError
from mpsplit.native import cpp
from mpsplit.package.manifest import Manifest, rank_folder
from mpsplit.runtime.engine.cache_room import check_room
from mpsplit.runtime.engine.engine_protocol import CACHES, EngineSteps, KeptSegment, Numbers, Span
from mpsplit.runtime.engine.memory_left import available_bytes


def missing(comm: Communicator) -> str:
    """Why the native engine cannot be used here; empty when it can."""
    if cpp.load("_engine") is None:
        return "the native engine is not built here; run python -m mpsplit.native"
    if not isinstance(comm, Native | Alone):
        return "the native engine needs the C++ communicator on every rank; run python -m mpsplit.native there"
    return ""


def _module(name: str) -> ModuleType:
    module = cpp.load(name)
    assert module is not None, f"{name} is missing"
    return module


class NativeEngine(EngineSteps):
    name = "native"
    keeps = True

    def __init__(self, package: Path, manifest: Manifest, comm: Communicator, threads: int):
        if why := missing(comm):
            raise RunError(why)
        self.manifest, self.package, self.folder = manifest, package, rank_folder(package, comm.rank)
        self.vocabulary = manifest.plan.shards[comm.rank].head
        hosts = comm.hosts if isinstance(comm, Native) else [b""]
        self._neighbours = [rank for rank, host in enumerate(hosts) if host == hosts[comm.rank]]
        world = comm.comm if isinstance(comm, Native) else _module("_comm").null()
        self._engine = _module("_engine").Engine(str(self.folder), world, threads)

    @property
    def bytes_sent(self) -> int:
        return self._engine.bytes_sent

    @property
    def seconds(self) -> float:
        return self._engine.seconds_between_ranks

    @property
    def spent(self) -> np.ndarray:
        return self._engine.spent()

    @property
    def shared_work(self) -> np.ndarray:
        return self._engine.shared_work()

    @property
    def memory(self) -> tuple[int, int, int]:
        """Bytes so far: of the arena, of blobs that are not in it, of what layers need for
        themselves."""
        return self._engine.memory()

    def reserve(self, pages: int, stored: str) -> None:
        check_room(self.manifest, self._neighbours, pages, stored, available_bytes())
        self._engine.reserve(pages, CACHES.index(stored))

    def place(self, slot: int, first: int, pages: Numbers) -> None:
        self._engine.place(slot, first, np.asarray(pages, np.int64))

    def forget(self, pages: Numbers) -> None:
        self._engine.forget(np.asarray(pages, np.int64))

    def batch(self, tokens: Numbers, spans: Sequence[Span], every_row: bool = False) -> np.ndarray:
        return self._engine.step(np.asarray(tokens, np.int64), np.array(spans, np.int64), every_row)

    # -- to keep what the cache holds: kept_texts.py ----------------------------------------------

    def save(self, slot: int, segment: KeptSegment, folder: str) -> None:
        self._engine.save(slot, segment.first, segment.last, segment.identity, self._file(folder, segment))

    def saved(self) -> tuple[int, int]:
        return self._engine.saved()

    def load(self, slot: int, segment: KeptSegment, folder: str) -> int:
        first, last, until, identity = segment
        return self._engine.load(slot, first, last, until, identity, self._file(folder, segment))

    def sweep(self, folder: str, saves: Sequence[str]) -> None:
        self._engine.sweep(str(self.package / folder), list(saves))

    def _file(self, folder: str, segment: KeptSegment) -> str:
        return str(self.package / folder / f"{self.folder.name}.{segment.save}.kv")

    # -- to look inside: dump.py ------------------------------------------------------------------

    def keep(self, blobs: Sequence[str]) -> None:
        for blob in blobs:
            self._engine.keep(blob)

    def blob(self, name: str) -> np.ndarray:
        return self._engine.blob(name)

    def keys(self, attention: int, slot: int, positions: int) -> np.ndarray:
        return self._engine.keys(attention, slot, positions)

    def values(self, attention: int, slot: int, positions: int) -> np.ndarray:
        return self._engine.values(attention, slot, positions)

    def close(self) -> None:
        self._engine = None
