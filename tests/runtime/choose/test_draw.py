"""What the only rank draws in C++: the token that all logits give, or nothing where sums of other
orders than theirs could tell another one."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from mpsplit.runtime.choose.answers import NumpyAnswers, bits_of
from mpsplit.runtime.choose.choosing import Choice
from mpsplit.runtime.choose.sampling import Sampling
from tests.cases import thorough
from tests.missing import needs
from tests.runtime.choose.asking import MODULE, Ranks
from tests.runtime.choose.from_all_logits import token_of

SIZE = 30000
HOW = {
    "greedy": {},
    "temperature": dict(temperature=0.8),
    "top_k": dict(temperature=0.8, top_k=40),
    "all cuts": dict(temperature=1.2, top_k=90, top_p=0.9, min_p=0.02, min_keep=3),
    "top_p": dict(temperature=0.8, top_p=0.9),
    "min_p": dict(temperature=0.8, min_p=0.0005),
    "top_p, min_p": dict(temperature=1.5, top_p=0.97, min_p=0.001),
}


def flat_logits(seed=0):
    return np.float32(np.random.default_rng(seed).standard_normal(SIZE) * 3)


@dataclass(frozen=True)
class At(Choice):
    """Where the draw falls is given."""

    random: float = 0.5

    def _random(self):
        return self.random


def told(logits, choice):
    """What the rank draws: token, the model's own logit, cells for the next draw; or nothing."""
    ranks = Ranks(logits, [0, len(logits)], "drawn")
    ranks.tell(choice)
    return ranks.drawn(choice).tolist()


@needs("the communicator")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("tilts", [{}, dict(repetition_penalty=1.2, presence_penalty=0.3, logit_bias=((5, 9.0),))])
def test_it_draws_nearly_always_and_what_all_logits_give(how, tilts):
    logits, rng = flat_logits(), np.random.default_rng(1)
    history = rng.integers(0, SIZE, 4000).tolist()
    wide, widest, sure = 0, 0, 0
    for seed in range(40):
        allowed = rng.random(SIZE) < 0.3 if seed % 3 == 0 else None
        bits = None if allowed is None else bits_of(allowed)
        choice = Choice(Sampling(seed=seed, **HOW[how], **tilts), history, 4 if seed % 2 else None, bits, wide)
        drawn = told(logits, choice)
        expected = token_of(logits, history, choice.sampling, len(history), allowed)
        if drawn:
            sure += 1
            wide = int(drawn[2])
            widest = max(wide, widest)
            assert drawn[:2] == [expected, logits[expected]]
        chosen = Ranks(logits, [0, SIZE], "drawn").choose(choice)
        assert chosen == Ranks(logits, [0, SIZE], "c++").choose(choice) and chosen.id == expected
    assert sure >= 39
    assert bool(widest) == (how in ("top_p", "min_p", "top_p, min_p"))


@needs("the communicator")
@pytest.mark.parametrize("low", [-8.7, *thorough(-9.03, -9.4, -10.1)])
def test_a_cut_between_two_tokens_is_found_though_what_lies_below_is_summed_roughly(low):
    """Sought is a fraction of 5e-9 beside the end of a token: less than floats tell of the sum."""
    logits = np.full(SIZE, low, np.float32)
    logits[:200] = -np.arange(200) / 64
    weights = np.exp(logits.astype(np.float64))
    ends = weights.cumsum() / weights.sum()
    for last, side, least in itertools.product((20, 60, 120), (-1, 1), (0.0, 1e-6)):
        sampling = Sampling(1.0, top_p=float(ends[last] + side * 5e-9), min_p=least)
        # of the tokens that stay the last but for a hair
        token, *_ = told(logits, At(sampling, [], random=1 - 1e-6 * weights[last]))
        assert token == last + (side > 0)


@needs("the communicator")
@pytest.mark.parametrize("how", [how for how in HOW if how != "greedy"])
def test_it_is_silent_where_two_tokens_part(how):
    """Four equal ones are all there is, so one ends at a half of what is left."""
    logits = np.full(900, -1000, np.float32)
    logits[[3, 400, 500, 899]] = 0
    less = dict(top_p=1.0, top_k=4 * ("top_k" in HOW[how]))
    sampling = Sampling(**HOW[how] | less)
    for nudge, silent in ((-2e-10, True), (0, True), (2e-10, True), (1e-8, False)):
        assert bool(told(logits, At(sampling, [], random=0.5 + nudge))) != silent
    halved = Sampling(1.0, top_p=0.5)
    assert not told(logits, At(halved, [])) and not told(logits, At(Sampling(1.0, top_k=9, top_p=0.5), []))


@needs("the communicator")
def test_it_is_silent_where_nothing_can_be_said():
    logits = flat_logits()
    none, nan = np.zeros(SIZE, bool), logits.copy()
    nan[7] = np.nan
    for sampling in (Sampling(), Sampling(1.0), Sampling(1.0, 5), Sampling(1.0, top_p=0.5), Sampling(1.0, min_p=0.5)):
        assert not told(logits, Choice(sampling, [], allowed=bits_of(none))) and not told(nan, Choice(sampling, []))
        assert told(logits, Choice(sampling, []))
    # left to choosing.py: more than it sends candidates of, and cells too deep for numbers
    assert not told(logits, Choice(Sampling(1.0, top_k=4096), []))
    assert not told(logits, Choice(Sampling(1.0, top_p=0.9, min_keep=2), []))
    assert not told(logits * 0, Choice(Sampling(1.0, min_p=1e-30), []))
    (drawn,) = NumpyAnswers(0).draws([(logits, 0, Choice(Sampling(), []).wish, Choice(Sampling(), []).draw)])
    assert not len(drawn)


@needs("the communicator")
@pytest.mark.parametrize("threads", [1, 3])
def test_slots_that_draw_together_draw_what_each_draws_alone(threads):
    choices = [
        Choice(Sampling(seed=seed, **how), [5, seed], likely, bits_of(np.arange(SIZE) % 3 > 0))
        for seed, (how, likely) in enumerate(itertools.product(HOW.values(), (None, 0, 4)))
    ]
    logits = [flat_logits(seed) for seed in range(len(choices))]
    alone, together = [], MODULE.Answers(0, threads)
    for slot, choice in enumerate(choices):
        rank = Ranks(logits[slot], [0, SIZE], "drawn", slot)
        rank.tell(choice)
        alone.append(rank.drawn(choice))
        together.mask(slot, choice.allowed)
    asked = [(x, slot, choice.wish, choice.draw) for slot, (x, choice) in enumerate(zip(logits, choices, strict=True))]
    for _ in range(20):
        assert all(map(np.array_equal, together.draws(asked), alone))
    assert sum(len(message) > 0 for message in alone) >= 20
