"""Choosing against transformers' own processors: the same tokens however the vocabulary is cut."""

import itertools
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import ALL, bits_of
from mpsplit.runtime.choose.choosing import Choice
from mpsplit.runtime.choose.sampling import PRESETS, Sampling
from tests.runtime.choose.asking import KINDS, Ranks
from tests.runtime.choose.from_all_logits import token_of

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3, 4.0]),
    penalty_window=st.sampled_from([0, 3]),
    seed=st.integers(0, 3),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -0.4]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5, -0.3]),
    min_keep=st.sampled_from([1, 5]),
    logit_bias=st.sampled_from([(), (), ((3, -100.0), (7, 2.5)), ((39, 100.0),)]),
)


def choose(logits, choice, bounds, few=0, kind="numpy"):
    return Ranks(logits, bounds, kind).choose(choice, few)


def sample(logits, history, sampling, bounds, step=0, kind="numpy"):
    """`step` seeds the draw, whatever the history."""
    return choose(logits, AtStep(sampling, history, step=step), bounds, kind=kind).id


@dataclass(frozen=True)
class AtStep(Choice):
    step: int = 0

    def _random(self):
        return np.random.Generator(np.random.Philox(key=[self.sampling.seed, self.step])).random()


def cut_alone(sampling):
    """Whether top-p or min-p cut, and cells may be asked for."""
    cuts = sampling.top_p < 1 or sampling.min_p
    return cuts and not sampling.greedy and not sampling.top_k and sampling.min_keep == 1


def random_cuts(rng, size, ranks):
    return [0, *sorted(rng.choice(np.arange(1, size), ranks - 1, replace=False).tolist()), size]


def transformers_probabilities(logits, history, sampling, allowed=None):
    chain = LogitsProcessorList()
    window = history[-sampling.penalty_window :] if sampling.penalty_window else history
    scores = torch.tensor(logits)[None].double()
    for token, bias in sampling.logit_bias:
        scores[0, token] += bias
    if sampling.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(torch.tensor([window]), scores)
    # OpenAI's penalties, which transformers has not
    count = torch.tensor(np.bincount(window, minlength=len(logits)))
    scores = scores - sampling.frequency_penalty * count - sampling.presence_penalty * (count > 0)
    if allowed is not None:
        scores = scores.masked_fill(~torch.tensor(allowed), -inf)
    if sampling.greedy:
        return torch.softmax(scores[0], -1).numpy()
    if sampling.temperature != 1:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k, min_tokens_to_keep=sampling.min_keep))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p, min_tokens_to_keep=sampling.min_keep))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(sampling.min_p, min_tokens_to_keep=sampling.min_keep))
    return torch.softmax(chain(None, scores)[0], -1).numpy()


@settings(max_examples=300, deadline=None)
@given(samplings, st.integers(0, 2**31), st.integers(1, 8), st.booleans(), st.booleans())
def test_cuts_do_not_change_the_token_and_transformers_agrees(sampling, seed, ranks, ties, masked):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(300) * 3).astype(np.float32)
    if ties:
        logits = np.round(logits)
    # likely tokens, so that penalties matter
    history = rng.choice(np.argsort(logits)[-60:], 12).tolist()
    allowed = rng.random(300) < 0.2 if masked else None
    choice = Choice(sampling, history, allowed=None if allowed is None else bits_of(allowed))
    whole = choose(logits, choice, [0, 300]).id
    assert whole == token_of(logits, history, sampling, len(history), allowed)
    for kind, bounds in itertools.product(KINDS, (random_cuts(rng, 300, ranks), [0, 300])):
        assert whole == choose(logits, choice, bounds, kind=kind).id == choose(logits, choice, bounds, 7, kind).id
        if cut_alone(sampling):
            for wide in (5, 80, 1000):
                assert whole == choose(logits, replace(choice, wide=wide), bounds, kind=kind).id
    probability = transformers_probabilities(logits, history, sampling, allowed)
    # which of equal tokens top-p and min-p leave out is torch.sort's business
    assert probability[whole] > 0 or ties and (sampling.top_p < 1 or sampling.min_p)
    if sampling.greedy:
        assert probability[whole] == probability.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["normal", "flat", "peaked", "ties"])
def test_a_large_vocabulary_gives_what_all_logits_give(kind, shape):
    """And few words travel. Slices that begin anywhere, masks and tilts of thousands."""
    rng = np.random.default_rng(len(shape))
    size = 20000
    logits = np.float32(rng.standard_normal(size) * dict(normal=3, flat=0.3, peaked=1, ties=2)[shape])
    if shape == "peaked":
        logits[rng.choice(size, 40, replace=False)] += 15
    if shape == "ties":
        logits = np.round(logits * 2) / 2
    history = rng.integers(0, size, 3000).tolist()
    heats = dict(temperature=0.8), dict(temperature=2.0, top_p=0.9), dict(temperature=1.0, min_p=0.02)
    more = dict(temperature=1.0, top_p=0.97, min_p=0.001), dict(temperature=0.7, top_k=30), {}
    kept = dict(temperature=1.0, top_p=0.05, min_keep=300), dict(temperature=1.0, min_p=0.9, min_keep=300)
    tilts = {}, dict(repetition_penalty=1.2, frequency_penalty=0.2), dict(repetition_penalty=0.8)
    biased = tuple((int(token), float(bias)) for token, bias in zip(history[:50], rng.uniform(-9, 9, 50), strict=True))
    for number, (heat, tilt) in enumerate(itertools.product([*heats, *more, *kept], [*tilts, dict(logit_bias=biased)])):
        sampling = Sampling(seed=number, **heat, **tilt)
        allowed = rng.random(size) < 0.4 if number % 3 == 0 else None
        bits = None if allowed is None else bits_of(allowed)
        expected = token_of(logits, history, sampling, len(history), allowed)
        for bounds in ([0, size], random_cuts(rng, size, 3)):
            ranks = Ranks(logits, bounds, kind)
            logprobs = (None, 5, 0)[number // 2 % 3]
            chosen = ranks.choose(Choice(sampling, history, logprobs, bits))
            assert chosen.id == expected, (sampling, bounds)
            # where a cell holds nearly all there are, all are asked for
            assert shape in ("flat", "ties") or ALL not in ranks.asked and ranks.words < size / 2
            assert not chosen.wide or cut_alone(sampling)
            if chosen.wide:  # as the next token would be asked for
                ranks = Ranks(logits, bounds, kind)
                again = ranks.choose(Choice(sampling, history, logprobs, bits, chosen.wide))
                assert again == chosen and again.wide and ALL not in ranks.asked
                # these cells, the ones of the cuts, the one of the draw
                assert len(ranks.asked) <= 2 + (sampling.top_p < 1) + (sampling.min_p > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_the_very_end_of_a_token_is_for_all_logits_to_decide(kind):
    """Four equal ones are all there is, so the second ends at a half."""
    logits = np.full(900, -1000, np.float32)
    logits[[3, 400, 500, 899]] = 0
    for top_p, wide in itertools.product((0.5, 0.5 + 1e-6), (0, 64)):
        sampling = Sampling(1.0, top_p=top_p)
        ranks = Ranks(logits, [0, 450, 900], kind)
        for step in range(20):
            chosen = ranks.choose(AtStep(sampling, [], wide=wide, step=step))
            assert chosen.id == token_of(logits, [], sampling, step)
        assert (ALL in ranks.asked) == (top_p == 0.5)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.7, top_k=5),
        Sampling(1.3, top_p=0.8),
        Sampling(0.9, 20, 0.7, 1.2),
        PRESETS["penalty_sample"],
    ],
)
def test_frequencies_are_transformers_probabilities(sampling):
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(40) * 2).astype(np.float32)
    history = [1, 2, 2, 39]
    expected = transformers_probabilities(logits, history, sampling)
    drawn = (
        np.bincount([sample(logits, history, sampling, [0, 13, 40], step) for step in range(4000)], minlength=40) / 4000
    )
    assert not drawn[expected == 0].any()
    # five standard deviations of a frequency over 4000 draws
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9).all()


def test_equal_logits_choose_the_lower_id_at_any_cut():
    logits = np.zeros(10, np.float32)
    assert sample(logits, [], Sampling(), [0, 10]) == sample(logits, [], Sampling(), [0, 4, 10]) == 0


def test_the_seed_and_the_step_are_all_the_randomness():
    logits = np.zeros(1000, np.float32)
    whole = [sample(logits, [], Sampling(1.0, seed=1), [0, 1000], step) for step in range(5)]
    assert whole == [sample(logits, [], Sampling(1.0, seed=1), [0, 500, 1000], step) for step in range(5)]
    assert whole != [sample(logits, [], Sampling(1.0, seed=2), [0, 1000], step) for step in range(5)]
    assert len(set(whole)) > 1


def test_ties_with_the_last_of_top_k_are_left_as_transformers_leaves_them():
    logits = np.array([1, 3, 2, 2, 2, 0], np.float32)
    for bounds in ([0, 6], [0, 3, 6], [0, 1, 2, 3, 4, 5, 6]):
        drawn = {sample(logits, [], Sampling(1.0, 2), bounds, step) for step in range(200)}
        assert drawn == {1, 2, 3, 4}


def test_log_probabilities_are_the_models_own_whatever_was_chosen_from():
    rng = np.random.default_rng(5)
    logits = (rng.standard_normal(50) * 3).astype(np.float32)
    expected = torch.log_softmax(torch.tensor(logits).double(), -1).numpy()
    allowed = np.arange(50) % 7 == 3
    hot = Sampling(2.0, 5, 0.9, 1.5, presence_penalty=1.0)
    warm = Sampling(2.0, repetition_penalty=1.5, logit_bias=((4, 5.0),))
    for choice, kind in itertools.product(
        (
            Choice(Sampling(), [1, 2], logprobs=3),
            Choice(hot, [1, 2], logprobs=0),
            Choice(warm, [1, 2], logprobs=20),
            Choice(replace(warm, top_p=0.99), [1, 2], logprobs=20),
            Choice(hot, [1, 2], logprobs=50, allowed=bits_of(allowed)),
        ),
        KINDS,
    ):
        chosen = choose(logits, choice, [0, 20, 50], 3, kind)
        assert chosen.logprob == pytest.approx(expected[chosen.id]) and (choice.allowed is None or allowed[chosen.id])
        assert [token for token, _ in chosen.likely] == np.argsort(-expected)[: choice.logprobs].tolist()
        assert dict(chosen.likely) == pytest.approx({token: expected[token] for token, _ in chosen.likely})
    assert choose(logits, Choice(Sampling(), []), [0, 50]).logprob is None


def test_a_grammar_that_allows_nothing_is_refused_and_a_short_mask_ends_the_vocabulary():
    logits = np.arange(6, dtype=np.float32)
    for kind, sampling in itertools.product(
        KINDS, (Sampling(), Sampling(1.0), Sampling(1.0, 2), Sampling(1.0, top_p=0.5))
    ):
        greedy = choose(
            logits, Choice(sampling, [], allowed=bits_of(np.array([False, True, False]))), [0, 3, 6], kind=kind
        )
        assert greedy.id == 1
        with pytest.raises(RunError, match="the grammar allows no token here"):
            choose(logits, Choice(sampling, [], allowed=bits_of(np.zeros(6, bool))), [0, 6], kind=kind)


def test_penalties_count_the_prompt_and_look_back_over_the_window():
    logits = np.array([5, 4.9, 0, 0], np.float32)
    once = Sampling(frequency_penalty=0.05)
    assert sample(logits, [0], once, [0, 4]) == 0 and sample(logits, [0, 0, 0], once, [0, 4]) == 1
    assert sample(logits, [0, 0, 0, 2], replace(once, penalty_window=2), [0, 4]) == 0
    assert sample(logits, [0, 0, 0], Sampling(presence_penalty=0.05), [0, 4]) == 0
    assert sample(logits, [0], Sampling(presence_penalty=0.2), [0, 4]) == 1
    assert sample(logits, [3], Sampling(presence_penalty=-2, frequency_penalty=-2), [0, 4]) == 0
    assert sample(logits, [3, 3], Sampling(presence_penalty=-2, frequency_penalty=-2), [0, 2, 4]) == 3


def test_penalty_sample_leaves_five_to_choose_among():
    logits = np.zeros(100, np.float32)
    logits[[3, 50, 51, 52, 53]] = 30, 9, 9, 9, 9
    # hot, so that all of them come up
    preset = replace(PRESETS["penalty_sample"], temperature=20.0)
    drawn = {sample(logits, [], replace(preset, top_p=0.01), [0, 51, 100], step) for step in range(400)}
    assert drawn == {3, 50, 51, 52, 53}
