"""A rank that follows: takes orders from rank 0 until the end. In: orders. Out: answers and reports. extensions/rank/follow.cpp
is the same without Python."""

from __future__ import annotations

import resource

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.engine import Engine
from mpsplit.runtime.orders import END, LEAD, REPORT, STEP, Orders
from mpsplit.runtime.sampling import candidates


def follow(engine: Engine, comm: Communicator) -> None:
    orders, reported = Orders(comm), engine.bytes_sent
    while True:
        order, tokens = orders.take()
        if order.verb == END:
            return
        if order.verb == REPORT:
            report(comm, engine.bytes_sent - reported)
            reported = engine.bytes_sent
            continue
        if order.verb == STEP:
            logits = engine.step(tokens, order.position)[-1]
        if order.wanted and len(logits):
            own = candidates(logits, engine.vocabulary.start, order.wanted, order.temperature)
            comm.send(own.pack(), LEAD)


def report(comm: Communicator, sent: int) -> list[list[int]]:
    """All ranks: [bytes sent, peak RSS] of each."""
    return comm.all_gather(np.array([sent, peak_rss_bytes()])).reshape(-1, 2).tolist()


def peak_rss_bytes() -> int:
    """The most memory this process ever held, as the kernel counts it (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
