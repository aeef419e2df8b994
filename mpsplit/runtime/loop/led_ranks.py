"""All ranks as one engine, for rank 0.

In: steps of several requests. Out: answers about the next token of each, from every rank with rows
of the head. Invariant: rank 0 tells the others what it does (orders.py), and does it too. They are
`in_step` until anything is raised between the first word of an order and its last answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.account.account import Account, CountedEngine
from mpsplit.runtime.choose.answers import ALL, NOTHING, SPAN, Wish, answers_of
from mpsplit.runtime.choose.candidates import Answer, length
from mpsplit.runtime.choose.choosing import Choice
from mpsplit.runtime.engine.cores import share_of_cores
from mpsplit.runtime.engine.engine_protocol import CACHES, Engine, KeptSegment
from mpsplit.runtime.loop.order_numbers import Question, kept_order, step_order, sweep_order
from mpsplit.runtime.loop.orders import LEAD, Order, Orders
from mpsplit.runtime.loop.verbs import Verb


class Ranks:
    def __init__(self, engine: Engine, comm: Communicator):
        self.engine, self.comm = engine, comm
        self._orders, self._counted = Orders(comm), CountedEngine(engine, comm)
        self._heads = [shard for shard in engine.manifest.plan.shards if len(shard.head)]
        self._has_whole_head = [shard.rank for shard in self._heads] == [LEAD]
        threads = share_of_cores(comm.local_size) if self._has_whole_head else 1
        self._answers = answers_of(engine.vocabulary.start, threads)
        self._logits = np.empty((0, 0), np.float32)
        self.in_step = True
        self._questions: Sequence[Question] = ()

    def reserve(self, pages: int, stored: str) -> None:
        with self._order():
            self.engine.reserve(pages, stored)
            self._orders.give(Order(Verb.RESERVE, count=pages, token=CACHES.index(stored)))

    def place(self, slot: int, first: int, pages: Sequence[int]) -> None:
        with self._order():
            self.engine.place(slot, first, pages)
            self._orders.give(Order(Verb.PLACE, slot, first, len(pages), token=pages[0]), pages)

    def forget(self, pages: Sequence[int]) -> None:
        with self._order():
            self._orders.give(Order(Verb.FORGET, count=len(pages), token=pages[0]), pages)
            self.engine.forget(pages)

    def tilt(self, slot: int, fresh: bool, changes: np.ndarray) -> None:
        """As tilt.py tells it."""
        with self._order():
            self._answers.tilt(slot, fresh, changes)
            self._orders.give(Order(Verb.TILT, slot, int(fresh), len(changes)), changes)

    def mask(self, slot: int, bits: np.ndarray) -> None:
        """As answers.bits_of."""
        with self._order():
            self._answers.mask(slot, bits)
            self._orders.give(Order(Verb.MASK, slot, count=len(bits), token=int(bits[0])), bits)

    def step(
        self, tokens: Sequence[int], questions: Sequence[Question], choices: Sequence[Choice | None] = ()
    ) -> list[list[Answer]]:
        """What the ranks answer to each part; nothing where nothing was wanted. By part, `choices`
        are to be made of it."""
        with self._order():
            if self.comm.size > 1:
                self._orders.give(*step_order(tokens, questions))
            self._questions = questions
            self._logits = self._counted.batch(tokens, [part for part, *_ in questions])
            drawn = self._drawn(choices)
            return [drawn.get(row) or self._gather(row, question.wish) for row, question in enumerate(questions)]

    def more(
        self,
        row: int,
        wanted: int,
        start: int = 0,
        count: int = 0,
        temperature: float = 0.0,
        has: Sequence[int] = (),
    ) -> list[Answer]:
        """Again after a part of the last step, as choosing.AskAgain."""
        if wanted == SPAN:
            has = [len(range(max(start, h.head.start), min(start + count, h.head.stop))) for h in self._heads]
        wish = self._questions[row].wish._replace(wanted=wanted, temperature=temperature, start=start, count=count)
        with self._order():
            self._orders.give(Order(Verb.MORE, 0, row, count, wanted, start, temperature))
            return self._gather(row, wish, has)

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

    def _drawn(self, choices: Sequence[Choice | None]) -> dict[int, list[Answer]]:
        """Where this rank has the whole head: the tokens by row; nothing where it cannot tell."""
        if not self._has_whole_head:
            return {}
        rows = {row: choice.draw for row, choice in enumerate(choices) if choice}
        asked = [
            (self._logits[row], self._questions[row].part.slot, self._questions[row].wish, how)
            for row, how in rows.items()
        ]
        told = zip(rows, self._answers.draws(asked) if asked else (), strict=True)
        head = self._heads[0].head
        return {
            row: [Answer(head, self._questions[row].wish, message, drawn=True)] for row, message in told if len(message)
        }

    def _gather(self, row: int, wish: Wish, has: Sequence[int] = ()) -> list[Answer]:
        if wish.wanted == NOTHING:
            return []
        answers = []
        for i, shard in enumerate(self._heads):
            if shard.rank == LEAD:
                message = self._own(row, wish)
            else:
                words = length(wish, len(shard.head), has[i] if has else wish.count)
                message = np.empty(words, np.float32 if wish.wanted == ALL else np.float64)
                if words:
                    self.comm.recv(message, shard.rank)
            answers.append(Answer(shard.head, wish, message))
        return answers

    def _own(self, row: int, wish: Wish) -> np.ndarray:
        logits = self._logits[row]
        return logits if wish.wanted == ALL else self._answers.answer(logits, self._questions[row].part.slot, wish)
