"""All ranks as one engine, for rank 0.

In: steps of several requests. Out: candidates for the next token of each, from every rank with rows
of the head. Invariant: rank 0 tells the others what it does (orders.py), and does it too. They are
`in_step` until anything is raised between the first word of an order and its last answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.account.account import Account, CountedEngine
from mpsplit.runtime.choose.candidates import ALL, Candidates, candidates_of
from mpsplit.runtime.engine.engine_protocol import CACHES, Engine, KeptSegment
from mpsplit.runtime.loop.orders import LEAD, Order, Orders, Question, kept_order, step_order, sweep_order
from mpsplit.runtime.loop.verbs import Verb


class Ranks:
    def __init__(self, engine: Engine, comm: Communicator):
        self.engine, self.comm = engine, comm
        self._orders, self._counted = Orders(comm), CountedEngine(engine, comm)
        self._heads = [shard for shard in engine.manifest.plan.shards if len(shard.head)]
        self._logits = np.empty((0, 0), np.float32)
        self.in_step = True

    def reserve(self, pages: int, stored: str) -> None:
        with self._order():
            self.engine.reserve(pages, stored)
            self._orders.give(Order(Verb.RESERVE, count=pages, token=CACHES.index(stored)))

    def place(self, slot: int, first: int, pages: Sequence[int]) -> None:
        with self._order():
            self.engine.place(slot, first, pages)
            self._orders.give(Order(Verb.PLACE, slot, first, len(pages), token=pages[0]), pages)

    def step(self, tokens: Sequence[int], questions: Sequence[Question]) -> list[list[Candidates]]:
        """What the ranks answer to each part; nothing where nothing was wanted."""
        with self._order():
            self._orders.give(*step_order(tokens, questions))
            self._logits = self._counted.batch(tokens, [part for part, *_ in questions])
            return [self._gather(row, wanted, temperature) for row, (_, wanted, temperature) in enumerate(questions)]

    def all_of(self, row: int) -> list[Candidates]:
        """Every logit after a part of the last step."""
        with self._order():
            self._orders.give(Order(Verb.MORE, position=row, wanted=ALL))
            return self._gather(row, ALL, 0.0)

    def save(self, slot: int, segment: KeptSegment, folder: str) -> None:
        with self._order():
            self._orders.give(*kept_order(Verb.SAVE, slot, segment, folder))
            self.engine.save(slot, segment, folder)

    def saved(self) -> list[tuple[int, int]]:
        """How it went, or goes, by rank (outcomes.py)."""
        with self._order():
            self._orders.give(Order(Verb.SAVED))
            told = self.comm.all_gather(np.array(self.engine.saved()))
        return [(outcome, detail) for outcome, detail in told.reshape(-1, 2).tolist()]

    def load(self, slot: int, segment: KeptSegment, folder: str) -> list[int]:
        with self._order():
            self._orders.give(*kept_order(Verb.LOAD, slot, segment, folder))
            return self.comm.all_gather(np.array([self.engine.load(slot, segment, folder)])).tolist()

    def sweep(self, folder: str, saves: Sequence[str]) -> None:
        with self._order():
            self._orders.give(*sweep_order(folder, saves))
            self.engine.sweep(folder, saves)

    def report(self) -> tuple[Account, ...]:
        """What each rank spent since the last report."""
        with self._order():
            self._orders.give(Order(Verb.REPORT))
            return self._counted.report()

    def end(self) -> None:
        self._orders.give(Order(Verb.END))

    @contextmanager
    def _order(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.in_step = False
            raise

    def _gather(self, row: int, wanted: int, temperature: float) -> list[Candidates]:
        if not wanted:
            return []
        return [
            candidates_of(self._logits[row], shard.head.start, wanted, temperature)
            if shard.rank == LEAD
            else Candidates.receive(self.comm, shard.rank, shard.head, wanted)
            for shard in self._heads
        ]
