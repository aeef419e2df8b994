"""Pages for an engine that cannot share its caches: it remembers which tokens lie in them, and
computes them again where it must.

In: places and parts, as engine_protocol.py has them. Out: for each part, the tokens that an engine
has to feed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpsplit.runtime.engine.engine_protocol import UNTOLD, KeepsNothing, Span, each_span
from mpsplit.runtime.engine.pages import PAGE, pages_of


class Replay:
    def __init__(self):
        self.tables: dict[int, list[int]] = {}
        self.written: dict[int, list[int]] = {}  # page -> its tokens
        self.fed: dict[int, list[int]] = {}  # cache -> the tokens behind it

    def place(self, slot: int, first: int, pages: Sequence[int]) -> None:
        self.tables[slot] = [*self.tables.get(slot, ())[:first], *map(int, pages)]

    def feed(self, tokens: Sequence[int], part: Span, cache: int) -> tuple[int, list[int]]:
        """The position from which on the cache is wrong, which is its end or 0, and what to feed it
        from there."""
        table, before = self.tables.get(part.slot, []), []
        needed = pages_of(part.position + part.count)
        assert len(table) >= needed, f"slot {part.slot} has {len(table)} pages, the step needs {needed}"
        for page in table[: pages_of(part.position)]:
            before += self.written[page]
        history = [*before[: part.position], *map(int, tokens)]
        own = self.fed.get(cache, [])
        kept = len(own) if own == history[: part.position] else 0
        self.fed[cache] = history
        for at in range(part.position // PAGE, needed):
            self.written[table[at]] = history[at * PAGE : (at + 1) * PAGE]
        return kept, history[kept:]


class OneHistory(KeepsNothing):
    """Slots for an engine that has but one cache, and a `step` that goes on with it or
    begins anew."""

    spent = UNTOLD

    def __init__(self, *given):
        super().__init__(*given)
        self.pages = Replay()

    def reserve(self, pages: int, stored: str) -> None:
        self.pages = Replay()

    def place(self, slot: int, first: int, pages: Sequence[int]) -> None:
        self.pages.place(slot, first, pages)

    def batch(self, tokens: Sequence[int], parts: Sequence[Span]) -> np.ndarray:
        rows = []
        for own, part in each_span(tokens, parts):
            start, again = self.pages.feed(own, part, 0)
            rows.append(self.step(again, start))
        return np.concatenate(rows)
