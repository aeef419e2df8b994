"""A rank that follows: takes orders from rank 0 until the end.

In: orders. Out: answers and reports. Invariant: every verb but END has a handler, here and in
extensions/rank/follow.cpp, which is the same without Python.
"""

from __future__ import annotations

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.account.account import CountedEngine
from mpsplit.runtime.choose.answers import ALL, NOTHING, Wish, answers_of
from mpsplit.runtime.engine.engine_protocol import CACHES, Engine
from mpsplit.runtime.loop.orders import LEAD, Order, Orders, Question, kept_of, questions_of, swept_of
from mpsplit.runtime.loop.verbs import Verb


class Follower:
    """What each order does to this rank."""

    def __init__(self, engine: Engine, comm: Communicator):
        self.engine, self.comm, self.counted = engine, comm, CountedEngine(engine, comm)
        self.answers = answers_of(engine.vocabulary.start)
        self.logits = np.empty((0, 0), np.float32)  # of the last step, [parts, rows of the head here]
        self.questions: list[Question] = []

    def step(self, order: Order, numbers: np.ndarray) -> None:
        tokens, self.questions = questions_of(order, numbers)
        self.logits = self.counted.batch(tokens, [part for part, *_ in self.questions])
        for row, question in enumerate(self.questions):
            self._answer(row, question.wish)

    def more(self, order: Order, _: np.ndarray) -> None:
        wish = self.questions[order.position].wish._replace(wanted=order.wanted, temperature=order.temperature)
        self._answer(order.position, wish, order.token, order.count)

    def tilt(self, order: Order, changes: np.ndarray) -> None:
        self.answers.tilt(order.slot, order.position == 1, changes)

    def mask(self, order: Order, bits: np.ndarray) -> None:
        self.answers.mask(order.slot, bits)

    def place(self, order: Order, pages: np.ndarray) -> None:
        self.engine.place(order.slot, order.position, pages)

    def reserve(self, order: Order, _: np.ndarray) -> None:
        self.engine.reserve(order.count, CACHES[order.token])

    def save(self, order: Order, numbers: np.ndarray) -> None:
        self.engine.save(order.slot, *kept_of(numbers))

    def saved(self, _: Order, __: np.ndarray) -> None:
        self.comm.all_gather(np.array(self.engine.saved()))

    def load(self, order: Order, numbers: np.ndarray) -> None:
        self.comm.all_gather(np.array([self.engine.load(order.slot, *kept_of(numbers))]))

    def sweep(self, order: Order, numbers: np.ndarray) -> None:
        self.engine.sweep(*swept_of(order, numbers))

    def report(self, _: Order, __: np.ndarray) -> None:
        self.counted.report()

    def _answer(self, row: int, wish: Wish, start: int = 0, count: int = 0) -> None:
        if wish.wanted == NOTHING or not self.logits.shape[1]:
            return
        slot, logits = self.questions[row].part.slot, self.logits[row]
        message = logits if wish.wanted == ALL else self.answers.more(logits, slot, *wish, start, count)
        if len(message):
            self.comm.send(message, LEAD)


HANDLERS = {
    Verb.STEP: Follower.step,
    Verb.BATCH: Follower.step,
    Verb.MORE: Follower.more,
    Verb.PLACE: Follower.place,
    Verb.RESERVE: Follower.reserve,
    Verb.SAVE: Follower.save,
    Verb.LOAD: Follower.load,
    Verb.REPORT: Follower.report,
    Verb.SAVED: Follower.saved,
    Verb.SWEEP: Follower.sweep,
    Verb.TILT: Follower.tilt,
    Verb.MASK: Follower.mask,
}


def follow(engine: Engine, comm: Communicator) -> None:
    orders, follower = Orders(comm), Follower(engine, comm)
    while True:
        order, numbers = orders.take()
        if order.verb == Verb.END:
            return
        HANDLERS[order.verb](follower, order, numbers)
