"""Orders over the wire and what a follower does with them, without MPI: the ranks are threads that
share queues."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.engine.engine_protocol import KeptSegment
from mpsplit.runtime.loop.follow import HANDLERS
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.loop.order_numbers import QUESTION, Question, kept_of, kept_order, sweep_order, swept_of
from mpsplit.runtime.loop.orders import LEAD, VERSION, WIRE, Order, Orders, greet
from mpsplit.runtime.loop.orders_header import fields, header
from mpsplit.runtime.loop.verbs import Verb
from tests.loops import Rows, Threads, led
from tests.models import facts

int64 = st.integers(-(2**63), 2**63 - 1)


@given(st.builds(Order, *[int64] * 6, st.floats(allow_nan=False)))
def test_an_order_comes_back_from_its_56_bytes(order):
    packed = order.pack()
    assert packed.nbytes == 56 and Order.unpack(packed) == order
    assert packed[:6].tolist() == list(order[:6]) and packed[6:].view(np.float64)[0] == order.temperature


def test_the_header_of_ranks_without_python_is_made_of_the_same_table():
    """The compiler holds C++ to it: sizes, places of fields, a handler for each verb."""
    file = Path(__file__).parents[3] / "extensions" / "rank" / "orders.h"
    assert file.read_text() == header(), "python -m mpsplit.runtime.loop.orders_header > extensions/rank/orders.h"


def test_messages_have_8_bytes_a_field_in_the_order_of_the_wire():
    assert (WIRE.size, QUESTION.size) == (56, 56) == tuple(8 * len(fields(each)) for each in (Order, Question))
    assert [name for _, name, _ in fields(Order)] == list(Order._fields)
    named = "slot position length wanted likely changed temperature"
    assert [name for _, name, _ in fields(Question)] == named.split()


def test_verbs_are_what_version_5_says():
    """A change of any of this is another version."""
    numbered, resting = ([verb.name for verb in Verb if getattr(verb, flag)] for flag in ("numbered", "resting"))
    assert VERSION == 5
    assert [
        verb.name for verb in Verb
    ] == "STEP BATCH MORE PLACE RESERVE SAVE LOAD REPORT END SAVED SWEEP TILT MASK FORGET".split()
    assert [verb.value for verb in Verb] == list(range(14))
    assert numbered == ["STEP", "BATCH", "PLACE", "SAVE", "LOAD", "SWEEP", "TILT", "MASK", "FORGET"]
    assert resting == ["RESERVE", "SAVE", "LOAD", "REPORT", "SAVED", "SWEEP", "FORGET"]
    assert set(HANDLERS) == set(Verb) - {Verb.END}


def test_an_order_that_nobody_knows_is_refused():
    lead, other = Threads.world(2)
    lead.broadcast(Order(99).pack(), LEAD)
    with pytest.raises(RunError, match="rank 0 gave order 99, which rank 1 does not know"):
        Orders(other).take()


SAMPLINGS = [
    Sampling(),
    Sampling(repetition_penalty=1.5, penalty_window=4),
    Sampling(repetition_penalty=0.7),
    Sampling(1.0, 5, 0.9, 1.2, seed=1),
    Sampling(1.0, seed=2),
    Sampling(2.0, top_p=0.8, seed=3),
    Sampling(0.8, top_p=0.9, repetition_penalty=1.1),
    Sampling(logit_bias=((5, 100.0), (90, -100.0))),
    Sampling(1.5, frequency_penalty=2.0, logit_bias=((100, 9.0),), seed=5),
]


def answers(tensor, pipeline):
    with led(tensor, pipeline, chunk=4) as (loop, engines, comms):
        found = [loop.generate(Request((1, 2, 3, 4, 5, 6), 12, sampling, ignore_eos=True)) for sampling in SAMPLINGS]
    return found, engines, comms


@pytest.mark.parametrize("tensor, pipeline", [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_ranks_that_only_obey_give_the_tokens_of_one_rank(tensor, pipeline):
    alone, _, _ = answers(1, 1)
    found, engines, comms = answers(tensor, pipeline)
    assert [one.token_ids for one in found] == [one.token_ids for one in alone]
    assert all(engine.steps == engines[0].steps for engine in engines)
    fed = [
        2,
        *[1] * (len(SAMPLINGS) - 1),
    ]  # steps of the prompt: the first 5 tokens of the later ones are there already
    assert [one.stats.bytes_between_ranks for one in found] == [100 * (n + 11) * len(engines) for n in fed]
    # patient for the first order of each request and for the end; chunks bring their tokens
    for comm in comms[1:]:
        assert comm.listened == len(SAMPLINGS) + 1


def test_top_p_asks_again_when_the_candidates_do_not_do():
    from mpsplit.runtime.choose import sampling

    assert facts().vocabulary < sampling.NUCLEUS  # as it stands, all of these slices is sent
    few, sampling.NUCLEUS = sampling.NUCLEUS, 3
    try:
        found, _, _ = answers(2, 1)
    finally:
        sampling.NUCLEUS = few
    assert [one.token_ids for one in found] == [one.token_ids for one in answers(1, 1)[0]]


def test_a_token_is_one_order_and_more_tokens_a_second_message():
    lead, other = Threads.world(2)
    given, taken = Orders(lead), Orders(other)
    one, three, more, report = (
        Order(Verb.STEP, 0, 0, 1, 2, 9),
        Order(Verb.STEP, 0, 1, 3, 0, 7),
        Order(Verb.MORE, wanted=-1),
        Order(Verb.REPORT),
    )
    given.give(one, [9])
    given.give(three, [7, 8, 9])
    given.give(more)
    given.give(report)
    given.give(Order(Verb.END))
    got = [taken.take() for _ in range(5)]
    assert [order for order, _ in got] == [one, three, more, report, Order(Verb.END)]
    assert [tokens.tolist() for _, tokens in got] == [[9], [7, 8, 9], [], [], []]
    assert (other.listened, other.awaited) == (2, 4)


def test_ranks_that_do_not_belong_together_are_refused():
    greet(Rows(0, 1), Alone())

    class Peer(Alone):
        size = 2

        def __init__(self, *says, package=0):
            self.says = [says, [package]]

        def all_gather(self, x):
            return np.concatenate([x, self.says.pop(0)])

    greet(Rows(0, 2), Peer(VERSION, 96, 131))
    with pytest.raises(RunError, match=f"rank 1 speaks version {VERSION + 1} of the orders"):
        greet(Rows(0, 2), Peer(VERSION + 1, 96, 131))
    with pytest.raises(RunError, match=r"rank 1 has loaded rows 60..131 of the head, this rank's package says 96..131"):
        greet(Rows(0, 2), Peer(VERSION, 60, 131))
    greet(Rows(0, 2), Peer(VERSION, 96, 131, package=5), package=5)
    with pytest.raises(RunError, match=r"another conversion of it, is what there is for rank 1; copy that of"):
        greet(Rows(0, 2), Peer(VERSION, 96, 131, package=6), package=5)


def test_what_is_kept_comes_back_from_its_numbers():
    segment = KeptSegment(32, 99, 64, "w" * 64 + "5" * 64 + "0" * 32)
    for folder in ("x", "sessions/key-1/name", "é"):
        order, numbers = kept_order(Verb.SAVE, 3, segment, folder)
        assert (order.slot, order.count) == (3, len(numbers)) and kept_of(order, numbers) == (segment, folder)
        for saves in ([], ["1" * 32], ["1" * 32, "2" * 32]):
            order, numbers = sweep_order(folder, saves)
            # one number would travel in the order itself
            assert order.count == len(numbers) > 1 and swept_of(order, numbers) == (folder, saves)
