"""Several requests at once: each gets the answer that it gets alone, whoever comes, goes, waits or
has to make room."""

import threading

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import bits_of
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.engine.engine_protocol import CACHES
from mpsplit.runtime.engine.pages import PAGE, Pages
from mpsplit.runtime.loop.loop_protocol import Ending, Full, Generation, Request
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.loops import Rows, TableEngine, Transcript, finished, led

SAMPLINGS = [Sampling(), Sampling(1.0, seed=3), Sampling(0.8, 7, 0.9, 1.3, seed=4), Sampling(1.2, top_p=0.7, seed=5)]
REQUESTS = [
    Request(
        tuple((7 * i + j // (1 + i % 3)) % 131 for j in range(1 + 9 * i % 50)),
        3 + 5 * i % 40,
        sampling,
        ignore_eos=True,
    )
    for i, sampling in zip(range(12), SAMPLINGS * 3, strict=True)
]


def alone():
    loop = TokenLoop(Rows(0, 1), Alone(), None, chunk=4)
    return [loop.generate(request).token_ids for request in REQUESTS]


@pytest.mark.parametrize("most, pages", [(12, 100), (3, 100), (12, 5), (5, 4)])
def test_together_they_are_answered_as_alone(most, pages):
    loop = TokenLoop(Rows(0, 1), Alone(), None, chunk=16, most=most)
    loop.pages = Pages(pages)  # few: the last that came makes room, and goes on later
    ends = finished(loop, REQUESTS)
    assert [end.token_ids for end in ends] == alone()
    assert loop.pages.available == pages and not loop.running
    assert sum(end.stats.bytes_between_ranks for end in ends) == pytest.approx(loop.engine.bytes_sent, abs=len(ends))


@pytest.mark.parametrize("tensor, pipeline", [(2, 1), (1, 2), (4, 1)])
def test_ranks_that_only_obey_take_part(tensor, pipeline):
    with led(tensor, pipeline, chunk=16, most=5) as (loop, engines, _):
        loop.reserve(loop.facts.context)
        assert [end.token_ids for end in finished(loop, REQUESTS)] == alone()
    assert all(engine.steps == engines[0].steps for engine in engines)


def test_who_answers_goes_on_while_a_prompt_is_read():
    loop = TokenLoop(TableEngine(), Alone(), None, chunk=128)
    loop.reserve(256)
    short, long = Transcript(), Transcript()
    loop.submit(Request((1,), 20), short)
    loop.turn()
    loop.submit(Request(tuple(range(100)), 2), long)
    while not long.pieces:
        before = len(short.pieces)
        loop.turn()
        assert len(short.pieces) == before + 1
    longest = max(len(tokens) for _, tokens in loop.engine.steps)
    assert longest == 31  # a row of the step is the short one's


def test_owners_take_turns():
    loop = TokenLoop(TableEngine(), Alone(), None, most=1)
    order = []
    for owner in "aaaabb":
        loop.submit(Request((1, 2), 2, owner=owner), lambda said, owner=owner: order.append(owner))
    while loop.turn():
        pass
    # two tokens and the end
    assert [owner for i, owner in enumerate(order) if i % 3 == 2] == list("ababaa")


def test_no_more_wait_than_may_and_none_comes_when_it_ends():
    loop = TokenLoop(TableEngine(), Alone(), None, most=1, waiting=2)
    for _ in range(2):
        loop.submit(Request((1,), 5), Transcript())
    with pytest.raises(Full, match="2 requests wait already"):
        loop.submit(Request((1,), 5), Transcript())
    assert (loop.load().running, loop.load().waiting) == (0, 2)
    loop.turn()
    assert (loop.load().running, loop.load().waiting, loop.load().pages_used) == (1, 1, 1)
    loop.drain()
    with pytest.raises(Ending):
        loop.submit(Request((1,), 5), Transcript())
    done = threading.Event()
    done.set()
    loop.work(done)
    assert loop.load().running == loop.load().waiting == loop.load().pages_used == 0


def test_a_request_on_its_way_in_holds_up_the_end():
    loop, said, inside, go = TokenLoop(TableEngine(), Alone(), None), Transcript(), threading.Event(), threading.Event()
    add = loop._waiting.add

    def slow(one):
        inside.set()
        assert go.wait(20)
        add(one)

    loop._waiting.add = slow
    coming = threading.Thread(target=loop.submit, args=(Request((1,), 3), said))
    ending = threading.Thread(target=loop.drain)
    coming.start()
    assert inside.wait(20)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    go.set()
    ending.join(20)
    until = threading.Event()
    until.set()
    loop.work(until)
    assert said.tokens == (2, 3, 4)


def test_who_comes_after_the_work_is_turned_away():
    """Nobody would answer."""
    loop, until = TokenLoop(TableEngine(), Alone(), None), threading.Event()
    until.set()
    loop.work(until)
    with pytest.raises(Ending):
        loop.submit(Request((1,), 5), Transcript())
    loop = TokenLoop(TableEngine(), Alone(), None)
    loop.engine.batch = lambda tokens, parts: 1 / 0
    loop.submit(Request((1,), 5), said := Transcript())
    with pytest.raises(ZeroDivisionError):
        loop.work(threading.Event())
    with pytest.raises(Ending):
        loop.submit(Request((1,), 5), Transcript())
    assert "the ranks stopped" in str(said.ends[0])


def test_cancelled_it_leaves_its_place_and_its_pages():
    loop = TokenLoop(TableEngine(), Alone(), None, most=1)
    runs, waits = Transcript(), Transcript()
    first, second = loop.submit(Request((1,), 100), runs), loop.submit(Request((2,), 100), waits)
    for _ in range(3):
        loop.turn()
    first.cancel()
    second.cancel()
    assert not loop.turn()
    assert runs.ends[0].finish_reason == waits.ends[0].finish_reason == "cancelled"
    assert runs.ends[0].token_ids == (2, 3, 4) and waits.ends[0].token_ids == ()
    assert loop.pages.available == loop.pages.count


def test_a_thread_that_works_hears_of_requests_and_of_the_end():
    loop, until = TokenLoop(TableEngine(), Alone(), None), threading.Event()
    worker = threading.Thread(target=loop.work, args=(until,))
    worker.start()
    done = threading.Semaphore(0)
    for _ in range(20):
        loop.submit(Request((1, 2, 3), 4), lambda said: isinstance(said, Generation) and done.release())
    assert all(done.acquire(timeout=20) for _ in range(20))
    until.set()
    worker.join(20)
    assert not worker.is_alive()


def test_when_the_ranks_stop_everybody_is_told():
    class Failing(TableEngine):
        def batch(self, tokens, parts):
            if len(self.steps) > 2:
                raise RunError("rank 1 is gone")
            return super().batch(tokens, parts)

    loop, said = TokenLoop(Failing(), Alone(), None, most=1), [Transcript(), Transcript()]
    for listener in said:
        loop.submit(Request((1,), 10), listener)
    with pytest.raises(RunError, match="rank 1 is gone"):
        loop.work(threading.Event())
    assert [str(one.ends[0]) for one in said] == ["the ranks stopped: rank 1 is gone"] * 2


def test_a_grammar_with_no_way_on_ends_its_own_request_alone():
    class Nothing:
        def allowed(self):
            return bits_of(np.zeros(131, bool))

    loop, bad, good = TokenLoop(TableEngine(), Alone(), None), Transcript(), Transcript()
    loop.submit(Request((1,), 5, grammar=Nothing), bad)
    loop.submit(Request((1,), 5), good)
    while loop.turn():
        pass
    assert "the grammar allows no token here" in str(bad.ends[0]) and good.tokens == (2, 3, 4, 5, 6)
    assert loop.pages.available == loop.pages.count


def test_a_prefix_is_computed_once():
    loop, prefix = TokenLoop(TableEngine(), Alone(), None, most=4), tuple(range(2 * PAGE))
    loop.generate(Request((*prefix, 1), 2))
    loop.engine.steps.clear()
    ends = finished(loop, [Request((*prefix, token, token), 2) for token in (5, 6, 7)])
    assert [end.stats.cached_tokens for end in ends] == [2 * PAGE] * 3
    assert (
        sum(len(tokens) for _, tokens in loop.engine.steps) == 3 * 3
    )  # the two tokens that differ, and one of the answer


def test_a_cache_is_as_large_as_asked_for_but_holds_one_context():
    loop = TokenLoop(Rows(0, 1), Alone(), None)
    with pytest.raises(RunError, match="does not hold one request of the context, 128 tokens"):
        loop.reserve(127)
    loop.reserve(1000, CACHES[0])
    assert loop.load().pages == 32
