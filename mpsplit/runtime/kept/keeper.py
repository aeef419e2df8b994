"""Between the cache and what is kept of it on disk.

In: requests that want a prefix or a conversation. Out: pages that are there, and files.

Used by the token loop, between its steps.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.runtime.engine.pages import Held, Pages, common
from mpsplit.runtime.kept.kept_texts import Kept, check, forget, is_older, whose
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.running_request import Running

NO_TOKEN = -1  # follows tokens of which all are asked for
OTHER = 2  # of kept.OUTCOMES


class Keeper:
    """`slot` is one that no request has; `stored` is how the cache stores now; `old`: folders to be
    forgotten, and what is old."""

    def __init__(self, ranks: Ranks, package: Path | None, slot: int):
        self.ranks, self.package, self.slot = ranks, package, slot
        self.old: deque[tuple[str, float]] = deque()  # from any thread

    @cached_property
    def whose(self) -> str:
        return whose(self.ranks.engine.manifest)

    def check(self) -> None:
        """Whether keys and values can be kept at all."""
        engine = self.ranks.engine
        if not hasattr(engine, "save") or self.package is None:
            raise RunError(
                f"the {engine.name} engine cannot keep its cache on disk; use the native one (python -m mpsplit.native)"
            )
        if engine.manifest.sealed:
            raise RunError(
                "this package is encrypted, and what is kept of conversations would not be; decrypt it first"
            )

    def warm(self, one: Running, pages: Pages, stored: str) -> None:
        """Brings what is kept on disk of its tokens into the cache, where it is not there yet
        (NOTES: What is kept on disk changes between steps)."""
        kept = Kept.read(self.package, one.request.warm)
        if (kept.whose, kept.stored) != (self.whose, stored):
            check([OTHER], kept.folder, "used")
        wanted = kept.tokens[: common(kept.tokens, one.history)]
        held, known = pages.begin([*wanted, NO_TOKEN])
        pages.release(held, wanted[:known])
        held = Held([], [])
        if known == len(wanted) or not pages.grow(held, len(kept.tokens)):
            return  # it is there, or there is no room, and the prompt is computed
        self.ranks.place(self.slot, 0, held.pages)
        outcomes = self.ranks.load(self.slot, len(kept.tokens), kept.folder, self.whose)
        pages.release(held, () if any(outcomes) else kept.tokens)
        check(outcomes, kept.folder, "used")

    def save(self, one: Running, stored: str) -> str:
        """Keeps what the cache holds of it; why not, where it cannot."""
        tokens, folder = tuple(one.history[: one.fed]), one.request.saves
        try:
            check(self.ranks.save(one.slot, len(tokens), folder, self.whose), folder, "kept")
            Kept(folder, self.whose, stored, tokens, one.request.about).save(self.package)
        except (RunError, OSError) as wrong:
            return str(wrong)
        return ""

    def forget_old(self) -> None:
        """But for what was kept anew in the meantime; rank 0's part goes last, for it says what is
        there."""
        while self.old:
            folder, before = self.old.popleft()
            if is_older(self.package, folder, before):
                self.ranks.save(self.slot, 0, folder, self.whose)
                forget(self.package, folder)
