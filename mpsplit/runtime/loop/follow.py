"""A rank that follows: takes orders from rank 0 until the end.

In: orders. Out: answers and reports. Invariant: every verb but END has a handler, here and in
extensions/rank/follow.cpp, which is the same without Python.
"""

from __future__ import annotations

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import PackageError
from mpsplit.runtime.account.account import CountedEngine
from mpsplit.runtime.choose.answers import ALL, BY_MASK, BY_TILT, NOTHING, Wish, answers_of
from mpsplit.runtime.engine.engine_protocol import Engine, Refused
from mpsplit.runtime.engine.pages import PAGE
from mpsplit.runtime.loop.order_numbers import (
    Misfit,
    Question,
    check_pages,
    check_place,
    check_slot,
    check_tilt,
    check_wish,
    kept_of,
    questions_of,
    stored_of,
    swept_of,
    want,
)
from mpsplit.runtime.loop.orders import LEAD, BadOrder, Order, Orders
from mpsplit.runtime.loop.verbs import Verb


class Follower:
    """What each order does to this rank, after those before it."""

    def __init__(self, engine: Engine, comm: Communicator):
        self.engine, self.comm, self.counted = engine, comm, CountedEngine(engine, comm)
        self.answers = answers_of(engine.vocabulary.start)
        self.logits = np.empty((0, 0), np.float32)  # of the last step, [parts, rows of the head here]
        self.questions: list[Question] = []
        self.pages: dict[int, int] = {}  # slot -> how many it has
        self.tilted: set[int] = set()  # slots of which there is a tilt
        self.masked: set[int] = set()  # or a mask

    def step(self, order: Order, numbers: np.ndarray) -> None:
        tokens, self.questions = questions_of(order, numbers)
        for (slot, position, length), _, _, changed, _ in self.questions:
            self._check_room(slot, position + length)
            want(not changed & BY_TILT or slot in self.tilted, f"slot {slot} has no tilt")
            want(not changed & BY_MASK or slot in self.masked, f"slot {slot} has no mask")
        self.logits = self.counted.batch(tokens, [part for part, *_ in self.questions])
        for row, question in enumerate(self.questions):
            self._answer(row, question.wish)

    def more(self, order: Order, _: np.ndarray) -> None:
        row, parts = order.position, len(self.questions)
        want(0 <= row < parts, f"the last step had {parts} parts, none is part {row}")
        wish = self.questions[row].wish._replace(
            wanted=order.wanted, temperature=order.temperature, start=order.token, count=order.count
        )
        check_wish(wish)
        self._answer(row, wish)

    def tilt(self, order: Order, changes: np.ndarray) -> None:
        check_tilt(order, changes)
        want(order.position == 1 or order.slot in self.tilted, f"slot {order.slot} has no tilt")
        self.tilted.add(order.slot)
        self.answers.tilt(order.slot, order.position == 1, changes)

    def mask(self, order: Order, bits: np.ndarray) -> None:
        check_slot(order)
        self.masked.add(order.slot)
        self.answers.mask(order.slot, bits)

    def place(self, order: Order, pages: np.ndarray) -> None:
        check_place(order, pages)
        has = self.pages.get(order.slot, 0)
        want(0 <= order.position <= has, f"page {order.position} does not follow the {has} of slot {order.slot}")
        self.pages[order.slot] = order.position + len(pages)
        self.engine.place(order.slot, order.position, pages)

    def forget(self, _: Order, pages: np.ndarray) -> None:
        check_pages(pages)
        self.engine.forget(pages)

    def reserve(self, order: Order, _: np.ndarray) -> None:
        stored = stored_of(order)
        self.pages.clear()
        self.engine.reserve(order.count, stored)

    def save(self, order: Order, numbers: np.ndarray) -> None:
        segment, folder = kept_of(order, numbers)
        self._check_room(order.slot, segment.last)
        self.engine.save(order.slot, segment, folder)

    def saved(self, _: Order, __: np.ndarray) -> None:
        self.comm.all_gather(np.array(self.engine.saved()))

    def load(self, order: Order, numbers: np.ndarray) -> None:
        segment, folder = kept_of(order, numbers)
        self._check_room(order.slot, segment.until)
        self.comm.all_gather(np.array([self.engine.load(order.slot, segment, folder)]))

    def sweep(self, order: Order, numbers: np.ndarray) -> None:
        self.engine.sweep(*swept_of(order, numbers))

    def report(self, _: Order, __: np.ndarray) -> None:
        self.counted.report()

    def _check_room(self, slot: int, positions: int) -> None:
        has = self.pages.get(slot, 0)
        want(positions <= PAGE * has, f"slot {slot} has {has} pages, too few for {positions} positions")

    def _answer(self, row: int, wish: Wish) -> None:
        if wish.wanted == NOTHING or not self.logits.shape[1]:
            return
        slot, logits = self.questions[row].part.slot, self.logits[row]
        message = logits if wish.wanted == ALL else self.answers.answer(logits, slot, wish)
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
    Verb.FORGET: Follower.forget,
}


def follow(engine: Engine, comm: Communicator) -> None:
    orders, follower = Orders(comm), Follower(engine, comm)
    while True:
        order, numbers = orders.take()
        if order.verb == Verb.END:
            return
        try:
            HANDLERS[order.verb](follower, order, numbers)
        except (Misfit, Refused, PackageError) as wrong:  # the latter are an engine's
            raise BadOrder.of(comm.rank, order, wrong) from wrong
