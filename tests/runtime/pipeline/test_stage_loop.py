"""Batches of several who ask at once: their turns, their ends, and what a mistake ends."""

import threading

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.runtime.loop.faults import OwnFault
from mpsplit.runtime.loop.loop_protocol import Ending, Full
from mpsplit.runtime.pipeline.stage_loop import Batch, Results, StageLoop
from tests.runtime.pipeline.formulas import expected, run_of


def batch(*sizes: int, read=lambda outputs: float(outputs["out"].sum()), owner: str = "") -> Batch:
    return Batch(tuple({"x": np.ones((1, size), np.float32)} for size in sizes), read, owner)


def sums(loop: StageLoop, *sizes: int) -> tuple[float, ...]:
    return tuple(float(expected(loop.run.pipeline, np.ones((1, size), np.float32))["out"].sum()) for size in sizes)


def worked(loop: StageLoop) -> None:
    """All that was asked so far."""
    done = threading.Event()
    done.set()
    loop.work(done)


@pytest.mark.mpi
def test_each_batch_gets_its_own(world):
    loop = StageLoop(run_of(world), most=2)
    if world.rank:
        loop.bursts.follow()
        return
    heard = {}
    for number, sizes in enumerate([(3, 1, 4), (1,), (5, 9, 2, 6)]):
        loop.submit(batch(*sizes), lambda event, number=number: heard.update({number: event}))
    assert loop.load().waiting == 3
    worked(loop)
    loop.end()
    assert heard == {
        0: Results(sums(loop, 3, 1, 4)), 1: Results(sums(loop, 1)), 2: Results(sums(loop, 5, 9, 2, 6)),
    }  # fmt: skip
    assert loop.load().running == loop.load().waiting == 0 and len(loop.spent()) == world.size
    assert {row["rank"] for row in loop.ranks_now()} == set(range(world.size))


def test_a_short_batch_is_not_behind_a_long_one():
    loop, order = StageLoop(run_of(Alone())), []
    loop.submit(batch(*[1] * 50, read=lambda _: order.append("long")), lambda event: None)
    loop.submit(batch(2, 2, read=lambda _: order.append("short")), lambda event: None)
    worked(loop)
    assert order[:4] == ["long", "short", "long", "short"] and len(order) == 52


def test_a_mistake_ends_one_batch():
    loop, heard = StageLoop(run_of(Alone())), {}

    def fails(outputs):
        raise ValueError("no such number")

    def deaf(event):
        raise ValueError("not heard")

    loop.submit(batch(1, 2, read=fails), lambda event: heard.update(wrong=event))
    loop.submit(batch(1), deaf)
    loop.submit(batch(4), lambda event: heard.update(right=event))
    worked(loop)
    assert isinstance(heard["wrong"], OwnFault) and heard["right"] == Results(sums(loop, 4))
    assert not loop.running


def test_who_leaves_gives_up_the_place():
    loop, heard = StageLoop(run_of(Alone()), most=1, waiting=2), {}

    def read(outputs):
        first.cancel()
        return 0

    first = loop.submit(batch(*[1] * 9, read=read), lambda event: heard.update(first=event))
    loop.submit(batch(2), lambda event: heard.update(second=event))
    with pytest.raises(Full, match="2 requests wait already"):
        loop.submit(batch(3), print)
    worked(loop)
    assert heard["first"].cancelled and len(heard["first"].values) < 9 and heard["second"] == Results(sums(loop, 2))
    with pytest.raises(Ending):
        loop.submit(batch(3), print)


def test_what_cannot_be_asked_is_refused():
    loop = StageLoop(run_of(Alone()))
    with pytest.raises(RunError, match=r"x has shape \[2, 1\], the model takes \[1, length\]"):
        loop.submit(Batch(({"x": np.ones((2, 1), np.float32)},), print), print)
    with pytest.raises(RunError, match="there is no input"):
        loop.submit(batch(), print)


def test_where_the_ranks_fail_all_hear_of_it():
    loop, heard = StageLoop(run_of(Alone()), most=1), []
    loop.run.nets[0].run = lambda given, length: 1 / 0
    for _ in range(3):
        loop.submit(batch(1), heard.append)
    with pytest.raises(ZeroDivisionError):
        worked(loop)
    assert len(heard) == 3 and all("the ranks stopped: division by zero" in str(event) for event in heard)
