"""Pages for an engine that cannot share its caches: it remembers which tokens lie in them, and
computes them again where it must.

In: places and spans, as engine_protocol.py has them. Out: for each span, the tokens that an engine
has to feed; and what such engines have in common.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.package.collectives import STAGE, WORLD
from mpsplit.package.manifest import Manifest
from mpsplit.runtime.engine.engine_protocol import (
    UNSHARED,
    UNTOLD,
    EngineSteps,
    KeepsNothing,
    Numbers,
    Refused,
    Span,
    each_span,
)
from mpsplit.runtime.engine.pages import PAGE, pages_of
from mpsplit.runtime.engine.positions import rope_tables


class Replay:
    def __init__(self):
        self.tables: dict[int, list[int]] = {}
        self.written: dict[int, list[int]] = {}  # page -> its tokens
        self.fed: dict[int, list[int]] = {}  # cache -> the tokens behind it

    def place(self, slot: int, first: int, pages: Numbers) -> None:
        self.tables[slot] = [*self.tables.get(slot, ())[:first], *map(int, pages)]

    def feed(self, tokens: Numbers, span: Span, cache: int) -> tuple[int, list[int]]:
        """The position from which on the cache is wrong, which is its end or 0, and what to feed it
        from there."""
        table = self.tables.get(span.slot, [])
        before: list[int] = []
        needed = pages_of(span.position + span.length)
        for page in table[: pages_of(span.position)]:
            before += self.written.get(page, ())
        if len(table) < needed or len(before) < span.position:
            raise Refused(
                f"slot {span.slot} has {len(table)} pages with {len(before)} tokens; the step needs {needed} with"
                f" {span.position}"
            )
        history = [*before[: span.position], *map(int, tokens)]
        fed = self.fed.get(cache, [])
        kept = len(fed) if fed == history[: span.position] else 0
        self.fed[cache] = history
        for at in range(span.position // PAGE, needed):
            self.written[table[at]] = history[at * PAGE : (at + 1) * PAGE]
        return kept, history[kept:]


class ReplayingEngine(EngineSteps):
    """An engine in Python with a cache for each slot, which takes spans one by one."""

    def __init__(self, manifest: Manifest, comm: Communicator):
        self.manifest, self.comm = manifest, comm
        self.shard = manifest.plan.shards[comm.rank]
        self.vocabulary = self.shard.head
        self.groups = {WORLD: comm, STAGE: comm.group(manifest.plan.group(comm.rank))}
        self.cos, self.sin = rope_tables(manifest.rope, manifest.facts.context)
        self._forget()

    @property
    def bytes_sent(self) -> int:
        return sum(group.bytes_sent for group in self._different_groups())

    @property
    def seconds(self) -> float:
        return sum(group.seconds for group in self._different_groups())

    def place(self, slot: int, first: int, pages: Numbers) -> None:
        self.pages.place(slot, first, pages)

    def batch(self, tokens: Numbers, spans: Sequence[Span], every_row: bool = False) -> np.ndarray:
        return np.concatenate(
            [self._feed(span_tokens, span, every_row) for span_tokens, span in each_span(tokens, spans)]
        )

    @abstractmethod
    def _feed(self, tokens: Numbers, span: Span, every_row: bool) -> np.ndarray:
        """Logits of one span, behind what `pages` says that its slot has to be fed."""

    def _different_groups(self) -> list[Communicator]:
        """Alone is every group at once."""
        return list({id(group): group for group in self.groups.values()}.values())

    def _forget(self) -> None:
        self.pages = Replay()
        self._past: dict[int, list[Any]] = {}  # slot -> its caches


class OneHistory(KeepsNothing):
    """Slots for an engine that has but one cache, and a `step` that goes on with it or
    begins anew."""

    step: Callable[..., np.ndarray]  # of the engine that this is mixed into
    spent, shared_work = UNTOLD, UNSHARED

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.pages = Replay()

    def reserve(self, pages: int, stored: str) -> None:
        self.pages = Replay()

    def place(self, slot: int, first: int, pages: Numbers) -> None:
        self.pages.place(slot, first, pages)

    def batch(self, tokens: Numbers, spans: Sequence[Span]) -> np.ndarray:
        rows = []
        for span_tokens, span in each_span(tokens, spans):
            start, again = self.pages.feed(span_tokens, span, 0)
            rows.append(self.step(again, start))
        return np.concatenate(rows)
