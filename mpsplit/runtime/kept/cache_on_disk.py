"""Between the cache and what is kept of it on disk, on all ranks.

In: folders of the package, histories of requests. Out: pages that are there, and files.

Used by the token loop, between its steps. Nothing here waits for a disk but `warm`, which reads.
Nothing that is wrong on a disk is an error of the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.package.together.folder_lock import InUse
from mpsplit.runtime.engine.pages import HeldPages, Pages, common
from mpsplit.runtime.kept.kept_folders import Caches, KeptFolders
from mpsplit.runtime.kept.kept_texts import SESSIONS, Damaged, KeptText, NothingKept, Unusable
from mpsplit.runtime.kept.outcomes import UNDER_WAY, first_failure
from mpsplit.runtime.kept.saves import POLL, Save, Saves
from mpsplit.runtime.kept.segments import wanted
from mpsplit.runtime.kept.session_counts import KeptLimits, owner_of

NO_TOKEN = -1  # follows tokens of which all are asked for
log = logging.getLogger("mpsplit")


class CacheOnDisk:
    """`slot` is one that no request has."""

    def __init__(self, caches: Caches, package: Path | None, slot: int):
        self.caches, self.slot = caches, slot
        self._folders = KeptFolders(caches, package)
        self._saves = Saves(self._folders, slot)

    @property
    def busy(self) -> bool:
        """Whether a save is under way or waits for its turn."""
        return bool(self._saves)

    def check(self) -> None:
        """Whether keys and values can be kept at all."""
        self._folders.check()

    def keep_within(self, limits: KeptLimits) -> None:
        """From now on; where nothing can be kept, whoever asks for a session is told so."""
        try:
            self.check()
        except RunError:
            return
        self._folders.keep_within(limits)

    def save(self, save: Save) -> None:
        """Soon; nobody changes its pages until it says so."""
        self._saves.put(save)

    def turn(self) -> None:
        """Goes on with what is under way, as far as it goes without waiting."""
        if counts := self._folders.counts:
            for folder in counts.too_old(time.time()):
                if not self._saves.has(folder):
                    self._folders.forget(folder)
        self._saves.turn()

    def settle(self) -> None:
        """Waits until all is done that is under way."""
        while self.busy:
            self.turn()
            time.sleep(POLL)
        if self.caches.engine.keeps:
            while any(outcome in UNDER_WAY for outcome, _ in self.caches.saved()):
                time.sleep(POLL)
        self._folders.settle()

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
            self._saves.release_if_brief(folder)

    def _warm(self, folder: str, history: Sequence[int], pages: Pages, stored: str, salt: str) -> int:
        ours = folder.startswith(SESSIONS)  # prefixes are changed by `mpsplit prefix` alone
        if ours and (why := self._folders.why_locked(owner_of(folder))):
            raise InUse(why)
        try:
            kept = KeptText.read(self._folders.package, folder)
        except Damaged:
            if ours:
                self._folders.set_aside(folder, None)
            raise
        kept.check_whose(self._folders.weights_id, stored)
        self._folders.use(folder)
        if not kept.segments:
            raise Unusable("its keys and values were set aside, or an older mpsplit kept them")
        shared = kept.tokens[: common(kept.tokens, history)]
        held, known = pages.begin([*shared, NO_TOKEN], salt)
        pages.release(held, shared[:known])
        segments = wanted(kept.segments, self._folders.weights_id, len(shared))
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
                    self._folders.set_aside(folder, kept.segments)
                raise Unusable(why)
        pages.release(held, tokens)
        return len(shared)
