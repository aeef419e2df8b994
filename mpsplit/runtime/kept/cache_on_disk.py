"""Between the cache and what is kept of it on disk, on all ranks.

In: folders of the package, histories of requests. Out: pages that are there, and files.

Used by the token loop, between its steps. Nothing here waits for a disk but `warm`, which reads:
the ranks write in threads of their own, kept.json is written in another one, and `turn` looks how
far they are. Nothing that is wrong on a disk is an error of the loop.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mpsplit.errors import RunError
from mpsplit.package.together.folder_lock import FolderLock, InUse
from mpsplit.runtime.engine.engine_protocol import SAVE_NAME, Engine, KeptSegment
from mpsplit.runtime.engine.pages import HeldPages, Pages, common
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
from mpsplit.runtime.kept.outcomes import UNDER_WAY, Outcome, first_failure
from mpsplit.runtime.kept.segments import Segment, staying, tokens_sha256, wanted
from mpsplit.runtime.kept.session_counts import KeptLimits, KeptSession, SessionCounts, owner_of

NO_TOKEN = -1  # follows tokens of which all are asked for
POLL = 0.005  # seconds after which the ranks are asked again how a save goes
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


@dataclass
class Save:
    """A text to be kept, and who wants to hear of it: `when_read` that nobody needs its pages any
    more, then `when_ended` why it is not kept, or nothing."""

    folder: str
    pages: Sequence[int]
    tokens: Sequence[int]
    about: dict
    stored: str
    when_read: Callable[[], None]
    when_ended: Callable[[str], None]
    before: KeptText | None = None  # what is kept so far
    after: KeptText | None = None  # and with this
    read: bool = False
    asked_at: float = 0.0  # of the ranks, how it goes
    commit: Future | None = field(default=None, repr=False)


class CacheOnDisk:
    """`slot` is one that no request has. Without limits nothing is counted, and a folder is locked
    as long as it is used; with them, until the process ends."""

    def __init__(self, caches: Caches, package: Path | None, slot: int):
        self.caches, self._package, self.slot = caches, package, slot
        self.counts: SessionCounts | None = None
        self._saves: deque[Save] = deque()  # the first is under way
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
        """Where rank 0 writes; one thing after another."""
        return ThreadPoolExecutor(1, "kept")

    @property
    def busy(self) -> bool:
        """Whether a save is under way or waits for its turn."""
        return bool(self._saves)

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

    # -- all together -----------------------------------------------------------------------------

    def keep_within(self, limits: KeptLimits) -> None:
        """From now on. Reads what is there of sessions, and removes what is left of saves that
        never ended."""
        self.counts = SessionCounts(limits)
        try:
            self.check()
        except RunError:
            return  # and whoever asks for a session is told so
        found = {}
        for owner in _folders_in(self.package / SESSIONS):
            if owner.startswith(OLD_HTTP):
                log.warning("%s was kept by an older mpsplit, and is removed", sessions_of(owner))
                self._forget(sessions_of(owner))
            elif owner != CHAT and not self._why_locked(sessions_of(owner)):
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
            except (Unusable, OSError) as wrong:
                if not isinstance(wrong, NothingKept):
                    log.warning("%s", wrong)
                self._forget(folder)
        return found

    def turn(self) -> None:
        """Goes on with what is under way, as far as it goes without waiting."""
        if self.counts:
            for folder in self.counts.too_old(time.time()):
                if not any(save.folder == folder for save in self._saves):
                    self._forget(folder)
        if not self._saves:
            return
        save = self._saves[0]
        if save.after is None:
            self._begin(save)
        elif save.commit is None:
            self._look(save)
        elif save.commit.done():
            wrong = save.commit.exception()
            reason = (isinstance(wrong, OSError) and wrong.strerror) or wrong
            self._end(save, f"{KEPT} cannot be written ({reason})" if wrong else "")

    def settle(self) -> None:
        """Waits until all is done that is under way."""
        while self._saves:
            self.turn()
            time.sleep(POLL)
        if "_beside" in self.__dict__:
            self._beside.shutdown()
            del self.__dict__["_beside"]
        if self.caches.engine.keeps:
            while any(outcome in UNDER_WAY for outcome, _ in self.caches.saved()):
                time.sleep(POLL)
        self._release_locks()

    # -- to use -----------------------------------------------------------------------------------

    def warm(
        self, folder: str, history: Sequence[int], pages: Pages, stored: str, salt: str = ""
    ) -> dict[str, int | str]:
        """Brings what is kept of these tokens into the cache, where it is not there yet. `stored`:
        how the cache stores now; `salt`: as pages.py has it. Gives {"hit": how many tokens that
        are} or {"miss": why}."""
        try:
            return {"hit": self._warm(folder, history, pages, stored, salt)}
        except NothingKept:
            return {"miss": "nothing is kept under this name"}
        except (Unusable, InUse, OSError) as wrong:
            log.warning("%s, so it is computed: %s", folder, wrong)
            return {"miss": str(wrong)}
        finally:
            self._release_if_brief(folder)

    def _warm(self, folder: str, history: Sequence[int], pages: Pages, stored: str, salt: str) -> int:
        ours = folder.startswith(SESSIONS)  # prefixes are changed by `mpsplit prefix` alone
        if ours and (why := self._why_locked(owner_of(folder))):
            raise InUse(why)
        try:
            kept = KeptText.read(self.package, folder)
        except Damaged:
            if ours:
                self._set_aside(folder, None)
            raise
        kept.check_whose(self.weights_id, stored)
        self._use(folder)
        if not kept.segments:
            raise Unusable("its keys and values were set aside, or an older mpsplit kept them")
        shared = kept.tokens[: common(kept.tokens, history)]
        held, known = pages.begin([*shared, NO_TOKEN], salt)
        pages.release(held, shared[:known])
        segments = wanted(kept.segments, self.weights_id, len(shared))
        if known == len(shared):
            return known
        tokens, held = kept.tokens[: segments[-1].until], HeldPages(salt)
        if not pages.grow(held, len(tokens)):
            raise Unusable("the cache has no room for it")
        self.caches.place(self.slot, 0, held.pages)
        for segment in segments:
            if why := first_failure(self.caches.load(self.slot, segment, folder)):
                pages.release(held, ())
                if ours:
                    self._set_aside(folder, kept.segments)
                raise Unusable(why)
        pages.release(held, tokens)
        return len(shared)

    # -- to keep ----------------------------------------------------------------------------------

    def save(self, save: Save) -> None:
        """Soon; nobody changes its pages until it says so."""
        self._saves.append(save)

    def _begin(self, save: Save) -> None:
        if why := self._why_locked(owner_of(save.folder)):
            self._end(save, why)
            return
        save.before = self._before(save.folder)
        segments, first = self._staying(save)
        save.after = KeptText(save.folder, self.weights_id, save.stored, tuple(save.tokens), save.about, segments)
        if first == len(save.tokens):  # all of it is there
            self._commit(save)
            return
        new = Segment(secrets.token_hex(SAVE_NAME // 2), first, len(save.tokens), tokens_sha256(save.tokens))
        save.after = replace(save.after, segments=(*segments, new))
        self.caches.place(self.slot, 0, save.pages)
        self.caches.save(self.slot, new.kept(self.weights_id, new.last), save.folder)

    def _before(self, folder: str) -> KeptText | None:
        """What is kept so far; nothing, where it is of no use, which `warm` has told."""
        try:
            return KeptText.read(self.package, folder)
        except (Unusable, OSError):
            return None

    def _staying(self, save: Save) -> tuple[tuple[Segment, ...], int]:
        """The segments that stay, and how many tokens they hold; a prefix is made anew as a whole,
        for nobody has looked at what is there of it."""
        before = save.before
        if (
            before is None
            or not save.folder.startswith(SESSIONS)
            or (before.whose, before.stored) != (self.weights_id, save.stored)
        ):
            return (), 0
        if before.segments and before.tokens == tuple(save.tokens):
            return before.segments, len(save.tokens)
        return staying(before.segments, common(before.tokens, save.tokens), len(save.tokens))

    def _look(self, save: Save) -> None:
        if time.monotonic() < save.asked_at + POLL:
            return
        outcomes, details = zip(*self.caches.saved(), strict=True)
        save.asked_at = time.monotonic()
        if Outcome.WRITING not in outcomes:
            self._tell_read(save)
        if any(outcome in UNDER_WAY for outcome in outcomes):
            return
        if why := first_failure(outcomes, details):
            self._end(save, why)
            return
        assert save.after
        *segments, new = save.after.segments
        save.after = replace(save.after, segments=(*segments, replace(new, bytes=sum(details))))
        self._commit(save)

    def _commit(self, save: Save) -> None:
        """Room is made first, so that there is never more than one save too much."""
        assert save.after
        if counts := self._counts_of(save.folder):
            size, most = save.after.bytes, counts.limits.bytes
            if size > most:
                self._end(save, f"it takes {size:,} bytes on all ranks, and {most:,} are allowed")
                return
            for folder in counts.to_give_up(save.folder, size):
                self._forget(folder)
        save.commit = self._beside.submit(save.after.save, self.package)

    def _end(self, save: Save, unsaved: str) -> None:
        """What no kept.json names is removed."""
        self._saves.popleft()
        if save.after:
            left = save.before if unsaved else save.after
            self.caches.sweep(save.folder, left.saves if left else [])
            if (counts := self._counts_of(save.folder)) and not unsaved:
                counts.put(save.folder, save.after.bytes, time.time())
        if unsaved:
            log.warning("%s is not kept: %s", save.folder, unsaved)
        self._release_if_brief(save.folder)
        self._tell_read(save)
        save.when_ended(unsaved)

    def _tell_read(self, save: Save) -> None:
        if not save.read:
            save.read = True
            save.when_read()

    # -- to give up -------------------------------------------------------------------------------

    def _forget(self, folder: str) -> None:
        self._write(forget, folder)
        self.caches.sweep(folder, [])
        if self.counts:
            self.counts.drop(folder)

    def _set_aside(self, folder: str, segments: Sequence[Segment] | None) -> None:
        """Waits until it is done, for the next save of this text builds on what is there."""
        self._write(set_aside, folder, segments).result()
        self.caches.sweep(folder, [])

    def _use(self, folder: str) -> None:
        """It is young again, also for those who come after this process."""
        if counts := self._counts_of(folder):
            counts.use(folder, time.time())
            self._write(lambda package, folder: os.utime(package / folder / KEPT), folder)

    def _write(self, what: Callable, folder: str, *more: object) -> Future:
        def told() -> None:
            try:
                what(self.package, folder, *more)
            except (RunError, OSError) as wrong:
                log.warning("%s: %s", folder, wrong)

        return self._beside.submit(told)

    # -- who may ----------------------------------------------------------------------------------

    def _counts_of(self, folder: str) -> SessionCounts | None:
        """Where this one is counted, if it is."""
        counted = folder.startswith(SESSIONS) and owner_of(folder) != sessions_of(CHAT)
        return self.counts if counted else None

    def _why_locked(self, owner: str) -> str:
        """Takes the lock, if this process does not have it; why not, where it cannot."""
        if owner not in self._locks:
            try:
                self._locks[owner] = FolderLock(self.package / owner)
            except InUse as wrong:
                return str(wrong)
            except OSError as wrong:
                return f"{owner} cannot be written to ({wrong.strerror})"
        return ""

    def _release_if_brief(self, folder: str) -> None:
        owner, saving = owner_of(folder), {owner_of(save.folder) for save in self._saves}
        if not self._counts_of(folder) and owner in self._locks and owner not in saving:
            self._locks.pop(owner).release()

    def _release_locks(self) -> None:
        while self._locks:
            self._locks.popitem()[1].release()


def _folders_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.is_dir())
