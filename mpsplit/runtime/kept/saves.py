"""Texts on their way to the disk, on all ranks, one after another.

In: a text and its pages. Out: files of all ranks, and kept.json when they are whole. Nothing waits
here: the ranks write in threads of their own, kept.json is written in another one, and `turn` looks
how far they are.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from mpsplit.runtime.engine.engine_protocol import SAVE_NAME
from mpsplit.runtime.engine.pages import common
from mpsplit.runtime.kept.kept_folders import KeptFolders
from mpsplit.runtime.kept.kept_texts import KEPT, SESSIONS, KeptText, Unusable
from mpsplit.runtime.kept.outcomes import UNDER_WAY, Outcome, first_failure
from mpsplit.runtime.kept.segments import Segment, staying, tokens_sha256
from mpsplit.runtime.kept.session_counts import owner_of

POLL = 0.005  # seconds after which the ranks are asked again how a save goes
log = logging.getLogger("mpsplit")


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


class Saves:
    """`slot` is one that no request has."""

    def __init__(self, folders: KeptFolders, slot: int):
        self._folders, self._caches, self._slot = folders, folders.caches, slot
        self._waiting: deque[Save] = deque()  # the first is under way

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, save: Save) -> None:
        self._waiting.append(save)

    def has(self, folder: str) -> bool:
        return any(save.folder == folder for save in self._waiting)

    def release_if_brief(self, folder: str) -> None:
        self._folders.release_if_brief(folder, {owner_of(save.folder) for save in self._waiting})

    def turn(self) -> None:
        """Goes on with the first one, as far as it goes without waiting."""
        if not self._waiting:
            return
        save = self._waiting[0]
        if save.after is None:
            self._begin(save)
        elif save.commit is None:
            self._look(save)
        elif save.commit.done():
            wrong = save.commit.exception()
            reason = (isinstance(wrong, OSError) and wrong.strerror) or wrong
            self._end(save, f"{KEPT} cannot be written ({reason})" if wrong else "")

    def _begin(self, save: Save) -> None:
        if why := self._folders.why_locked(owner_of(save.folder)):
            self._end(save, why)
            return
        save.before = self._before(save.folder)
        segments, first = self._staying(save)
        whose, tokens = self._folders.weights_id, tuple(save.tokens)
        save.after = KeptText(save.folder, whose, save.stored, tokens, save.about, segments)
        if first == len(tokens):  # all of it is there
            self._commit(save)
            return
        new = Segment(secrets.token_hex(SAVE_NAME // 2), first, len(tokens), tokens_sha256(tokens))
        save.after = replace(save.after, segments=(*segments, new))
        self._caches.place(self._slot, 0, save.pages)
        self._caches.save(self._slot, new.kept(whose, new.last), save.folder)

    def _before(self, folder: str) -> KeptText | None:
        """What is kept so far; nothing, where it is of no use, which `warm` has told."""
        try:
            return KeptText.read(self._folders.package, folder)
        except (Unusable, OSError):
            return None

    def _staying(self, save: Save) -> tuple[tuple[Segment, ...], int]:
        """The segments that stay, and how many tokens they hold; a prefix is made anew as a whole,
        for nobody has looked at what is there of it."""
        before = save.before
        if (
            before is None
            or not save.folder.startswith(SESSIONS)
            or (before.whose, before.stored) != (self._folders.weights_id, save.stored)
        ):
            return (), 0
        if before.segments and before.tokens == tuple(save.tokens):
            return before.segments, len(save.tokens)
        return staying(before.segments, common(before.tokens, save.tokens), len(save.tokens))

    def _look(self, save: Save) -> None:
        if time.monotonic() < save.asked_at + POLL:
            return
        outcomes, details = zip(*self._caches.saved(), strict=True)
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
        if counts := self._folders.counts_of(save.folder):
            size, most = save.after.bytes, counts.limits.bytes
            if size > most:
                self._end(save, f"it takes {size:,} bytes on all ranks, and {most:,} are allowed")
                return
            for folder in counts.to_give_up(save.folder, size):
                self._folders.forget(folder)
        save.commit = self._folders.write(save.after.save)

    def _end(self, save: Save, unsaved: str) -> None:
        """What no kept.json names is removed."""
        self._waiting.popleft()
        if save.after:
            left = save.before if unsaved else save.after
            self._caches.sweep(save.folder, left.saves if left else [])
            if (counts := self._folders.counts_of(save.folder)) and not unsaved:
                counts.put(save.folder, save.after.bytes, time.time())
        if unsaved:
            log.warning("%s is not kept: %s", save.folder, unsaved)
        self.release_if_brief(save.folder)
        self._tell_read(save)
        save.when_ended(unsaved)

    def _tell_read(self, save: Save) -> None:
        if not save.read:
            save.read = True
            save.when_read()
