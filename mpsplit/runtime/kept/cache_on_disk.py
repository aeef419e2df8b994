"""Between the cache and what is kept of it on disk, on all ranks.

In: folders of the package, histories of requests. Out: pages that are there, and files.

Used by the token loop, between its steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from mpsplit.errors import RunError
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.engine.pages import HeldPages, Pages, common
from mpsplit.runtime.kept.kept_texts import KeptText, check_outcomes, forget, is_older, weights_id

NO_TOKEN = -1  # follows tokens of which all are asked for
OTHER = 2  # of kept_texts.OUTCOMES


class Caches(Protocol):
    """The caches of all ranks (loop/led_ranks.py); an outcome is that of each rank."""

    engine: Engine  # of rank 0

    def place(self, slot: int, first: int, pages: Sequence[int]) -> None: ...

    def save(self, slot: int, tokens: int, folder: str, whose: str) -> list[int]: ...

    def load(self, slot: int, tokens: int, folder: str, whose: str) -> list[int]: ...


class CacheOnDisk:
    """`slot` is one that no request has."""

    def __init__(self, caches: Caches, package: Path | None, slot: int):
        self.caches, self._package, self.slot = caches, package, slot
        self.old: deque[tuple[str, float]] = deque()  # (folder to forget, before when), from any thread

    @property
    def package(self) -> Path:
        assert self._package is not None, "check() comes first"
        return self._package

    @cached_property
    def weights_id(self) -> str:
        return weights_id(self.caches.engine.manifest)

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

    def warm(self, folder: str, history: Sequence[int], pages: Pages, stored: str, salt: str = "") -> None:
        """Brings what is kept of these tokens into the cache, where it is not there yet
        (NOTES: What is kept on disk changes between steps). `stored`: how the cache stores now;
        `salt`: as pages.py has it."""
        kept = KeptText.read(self.package, folder)
        if (kept.whose, kept.stored) != (self.weights_id, stored):
            check_outcomes([OTHER], folder, "used")
        shared = kept.tokens[: common(kept.tokens, history)]
        held, known = pages.begin([*shared, NO_TOKEN], salt)
        pages.release(held, shared[:known])
        held = HeldPages(salt)
        if known == len(shared) or not pages.grow(held, len(kept.tokens)):
            return  # it is there, or there is no room, and the prompt is computed
        self.caches.place(self.slot, 0, held.pages)
        outcomes = self.caches.load(self.slot, len(kept.tokens), folder, self.weights_id)
        pages.release(held, () if any(outcomes) else kept.tokens)
        check_outcomes(outcomes, folder, "used")

    def save(self, folder: str, slot: int, tokens: Sequence[int], about: dict, stored: str) -> str:
        """Keeps what the cache holds of these tokens of a slot; why not, where it cannot."""
        try:
            check_outcomes(self.caches.save(slot, len(tokens), folder, self.weights_id), folder, "kept")
            KeptText(folder, self.weights_id, stored, tuple(tokens), about).save(self.package)
        except (RunError, OSError) as wrong:
            return str(wrong)
        return ""

    def forget_old(self) -> None:
        """But for what was kept anew in the meantime; rank 0's part goes last, for it says what is
        there."""
        while self.old:
            folder, before = self.old.popleft()
            if is_older(self.package, folder, before):
                self.caches.save(self.slot, 0, folder, self.weights_id)
                forget(self.package, folder)
