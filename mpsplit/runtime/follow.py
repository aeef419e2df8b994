"""A rank that follows: takes orders from rank 0 until the end. In: orders. Out: answers and reports. extensions/rank/follow.cpp
is the same without Python."""

from __future__ import annotations

from mpsplit.comm import Communicator
from mpsplit.runtime.account import Counted
from mpsplit.runtime.engine import Engine
from mpsplit.runtime.orders import END, LEAD, REPORT, STEP, Orders
from mpsplit.runtime.sampling import candidates


def follow(engine: Engine, comm: Communicator) -> None:
    orders, counted = Orders(comm), Counted(engine)
    while True:
        order, tokens = orders.take()
        if order.verb == END:
            return
        if order.verb == REPORT:
            counted.report(comm)
            continue
        if order.verb == STEP:
            logits = counted.step(tokens, order.position)[-1]
        if order.wanted and len(logits):
            own = candidates(logits, engine.vocabulary.start, order.wanted, order.temperature)
            comm.send(own.pack(), LEAD)
