"""A rank that follows: takes orders from rank 0 until the end.

In: orders. Out: answers and reports. extensions/rank/follow.cpp is the same without Python.
"""

from __future__ import annotations

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.account.account import CountedEngine
from mpsplit.runtime.choose.candidates import ALL, candidates_of
from mpsplit.runtime.engine.engine_protocol import CACHES, Engine
from mpsplit.runtime.loop.orders import (
    BATCH,
    END,
    LEAD,
    LOAD,
    MORE,
    PLACE,
    REPORT,
    RESERVE,
    SAVE,
    STEP,
    Orders,
    asked_of,
    kept_of,
)


def follow(engine: Engine, comm: Communicator) -> None:
    orders, counted, logits = Orders(comm), CountedEngine(engine, comm), np.empty((0, 0), np.float32)

    def answer(row: int, wanted: int, temperature: float) -> None:
        if wanted and logits.shape[1]:
            comm.send(candidates_of(logits[row], engine.vocabulary.start, wanted, temperature).pack(), LEAD)

    while True:
        order, numbers = orders.take()
        if order.verb in (STEP, BATCH):
            tokens, asked = asked_of(order, numbers)
            logits = counted.batch(tokens, [part for part, *_ in asked])
            for row, (_, wanted, temperature) in enumerate(asked):
                answer(row, wanted, temperature)
        elif order.verb == MORE:
            answer(order.position, ALL, 0.0)
        elif order.verb == PLACE:
            engine.place(order.slot, order.position, numbers)
        elif order.verb == RESERVE:
            engine.reserve(order.count, CACHES[order.token])
        elif order.verb in (SAVE, LOAD):
            work = engine.save if order.verb == SAVE else engine.load
            comm.all_gather(np.array([work(order.slot, order.position, *kept_of(numbers))]))
        elif order.verb == REPORT:
            counted.report()
        elif order.verb == END:
            return
