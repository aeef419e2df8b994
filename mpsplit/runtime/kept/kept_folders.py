"""The folders of a package in which texts are kept, as this process may change them.

In: names of folders, limits. Out: what is there, and changes of it. Invariant: one process at a
time has the lock of an owner; what is written goes beside the caller, one thing after another.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mpsplit.errors import RunError
from mpsplit.package.together.folder_lock import FolderLock, InUse
from mpsplit.runtime.engine.engine_protocol import Engine, KeptSegment
from mpsplit.runtime.kept.kept_texts import (
    CHAT,
    KEPT,
    SESSIONS,
    Damaged,
    KeptText,
    NothingKept,
    Unusable,
    forget,
    sessions_of,
    set_aside,
    weights_id,
)
from mpsplit.runtime.kept.segments import Segment
from mpsplit.runtime.kept.session_counts import KeptLimits, KeptSession, SessionCounts, owner_of

OLD_HTTP = "http-"  # before the names of sessions of an older mpsplit
log = logging.getLogger("mpsplit")


class Caches(Protocol):
    """The caches of all ranks (loop/led_ranks.py)."""

    engine: Engine  # of rank 0

    def place(self, slot: int, first: int, pages: Sequence[int]) -> None: ...

    def save(self, slot: int, segment: KeptSegment, folder: str) -> None: ...

    def saved(self) -> list[tuple[int, int]]: ...

    def load(self, slot: int, segment: KeptSegment, folder: str) -> list[int]: ...

    def sweep(self, folder: str, saves: Sequence[str]) -> None: ...


class KeptFolders:
    """Without limits nothing is counted, and a folder is locked as long as it is used; with them,
    until the process ends."""

    def __init__(self, caches: Caches, package: Path | None):
        self.caches, self._package = caches, package
        self.counts: SessionCounts | None = None
        self._locks: dict[str, FolderLock] = {}  # by owner

    @property
    def package(self) -> Path:
        assert self._package is not None, "check() comes first"
        return self._package

    @cached_property
    def weights_id(self) -> str:
        return weights_id(self.caches.engine.manifest)

    @cached_property
    def _beside(self) -> ThreadPoolExecutor:
        """Where rank 0 writes."""
        return ThreadPoolExecutor(1, "kept")

    def check(self) -> None:
        """Whether keys and values can be kept at all."""
        engine = self.caches.engine
        if not engine.keeps or self._package is None:
            raise RunError(
                f"the {engine.name} engine cannot keep its cache on disk; use the native one (python -m mpsplit.native)"
            )
        if engine.manifest.sealed:
            raise RunError(
                "this package is encrypted, and what is kept of conversations would not be; decrypt it first"
            )

    # -- what is there ----------------------------------------------------------------------------

    def keep_within(self, limits: KeptLimits) -> None:
        """From now on. Reads what is there of sessions, and removes what is left of saves that
        never ended."""
        self.counts = SessionCounts(limits)
        found = {}
        for owner in _folders_in(self.package / SESSIONS):
            if owner.startswith(OLD_HTTP):
                log.warning("%s was kept by an older mpsplit, and is removed", sessions_of(owner))
                self.forget(sessions_of(owner))
            elif owner != CHAT and not self.why_locked(sessions_of(owner)):
                found.update(self._found(sessions_of(owner)))
        self.counts.fill(found)

    def _found(self, owner: str) -> dict[str, KeptSession]:
        """What is there of an owner."""
        found = {}
        for name in _folders_in(self.package / owner):
            folder = f"{owner}/{name}"
            try:
                kept = KeptText.read(self.package, folder)
                found[folder] = KeptSession(kept.bytes, (self.package / folder / KEPT).stat().st_mtime)
                self.caches.sweep(folder, kept.saves)
            except Damaged as wrong:
                log.warning("%s", wrong)
                self.set_aside(folder, None)
            except (Unusable, OSError) as wrong:
                if not isinstance(wrong, NothingKept):
                    log.warning("%s", wrong)
                self.forget(folder)
        return found

    def counts_of(self, folder: str) -> SessionCounts | None:
        """Where this one is counted, if it is."""
        counted = folder.startswith(SESSIONS) and owner_of(folder) != sessions_of(CHAT)
        return self.counts if counted else None

    # -- to change --------------------------------------------------------------------------------

    def forget(self, folder: str) -> None:
        self._write_or_tell(forget, folder)
        self.caches.sweep(folder, [])
        if self.counts:
            self.counts.drop(folder)

    def set_aside(self, folder: str, segments: Sequence[Segment] | None) -> None:
        """Waits until it is done, for the next save of this text builds on what is there."""
        self._write_or_tell(set_aside, folder, segments).result()
        self.caches.sweep(folder, [])

    def use(self, folder: str) -> None:
        """It is young again, also for those who come after this process. By the exact time: that of
        files goes in steps of some ms, and one saved just before would be as young."""
        if counts := self.counts_of(folder):
            now = time.time_ns()
            counts.use(folder, now / 1e9)
            self._write_or_tell(lambda package, folder: os.utime(package / folder / KEPT, ns=(now, now)), folder)

    def write(self, what: Callable, *about: object) -> Future:
        """Calls it with the package and what it is about."""
        return self._beside.submit(what, self.package, *about)

    def _write_or_tell(self, what: Callable, folder: str, *more: object) -> Future:
        def told(package: Path) -> None:
            try:
                what(package, folder, *more)
            except (RunError, OSError) as wrong:
                log.warning("%s: %s", folder, wrong)

        return self.write(told)

    # -- who may ----------------------------------------------------------------------------------

    def why_locked(self, owner: str) -> str:
        """Takes the lock, if this process does not have it; why not, where it cannot."""
        if owner not in self._locks:
            try:
                self._locks[owner] = FolderLock(self.package / owner)
            except InUse as wrong:
                return str(wrong)
            except OSError as wrong:
                return f"{owner} cannot be written to ({wrong.strerror})"
        return ""

    def release_if_brief(self, folder: str, in_use: Collection[str]) -> None:
        """The lock of a folder that is not counted, unless its owner is in use."""
        owner = owner_of(folder)
        if not self.counts_of(folder) and owner in self._locks and owner not in in_use:
            self._locks.pop(owner).release()

    def settle(self) -> None:
        """Waits until all is written, and gives the locks back."""
        if "_beside" in self.__dict__:
            self._beside.shutdown()
            del self.__dict__["_beside"]
        while self._locks:
            self._locks.popitem()[1].release()


def _folders_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir())
