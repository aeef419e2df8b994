"""A rank that follows: takes orders from rank 0 until the end.

In: orders. Out: answers and reports. Invariant: every verb but END has a handler, here and in
extensions/rank/follow.cpp, which is the same without Python.
"""

from __future__ import annotations

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.account.account import CountedEngine
from mpsplit.runtime.choose.candidates import ALL, candidates_of
from mpsplit.runtime.engine.engine_protocol import CACHES, Engine
from mpsplit.runtime.loop.orders import LEAD, Order, Orders, kept_of, questions_of, swept_of
from mpsplit.runtime.loop.verbs import Verb


class Follower:
    """What each order does to this rank."""

    def __init__(self, engine: Engine, comm: Communicator):
        self.engine, self.comm, self.counted = engine, comm, CountedEngine(engine, comm)
        self.logits = np.empty((0, 0), np.float32)  # of the last step, [parts, rows of the head here]

    def step(self, order: Order, numbers: np.ndarray) -> None:
        tokens, questions = questions_of(order, numbers)
        self.logits = self.counted.batch(tokens, [part for part, *_ in questions])
        for row, (_, wanted, temperature) in enumerate(questions):
            self._answer(row, wanted, temperature)

    def more(self, order: Order, _: np.ndarray) -> None:
        self._answer(order.position, ALL, 0.0)

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

    def _answer(self, row: int, wanted: int, temperature: float) -> None:
        if wanted and self.logits.shape[1]:
            first = self.engine.vocabulary.start
            self.comm.send(candidates_of(self.logits[row], first, wanted, temperature).pack(), LEAD)


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
}


def follow(engine: Engine, comm: Communicator) -> None:
    orders, follower = Orders(comm), Follower(engine, comm)
    while True:
        order, numbers = orders.take()
        if order.verb == Verb.END:
            return
        HANDLERS[order.verb](follower, order, numbers)
