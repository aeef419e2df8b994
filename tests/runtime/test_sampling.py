"""Sampling against transformers' own processors, and the same tokens however the vocabulary is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mpsplit.errors import RunError
from mpsplit.plan.shards import Range
from mpsplit.runtime.orders import ALL
from mpsplit.runtime.sampling import Candidates, Sampling, candidates, choose, penalise

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    repetition_penalty=st.sampled_from([0.8, 1.0, 1.3, 4.0]),
    penalty_window=st.sampled_from([0, 3]),
    seed=st.integers(0, 3),
)


class Sent:
    """A communicator that receives this array."""

    def __init__(self, array):
        self.array = array

    def recv(self, x, peer):
        assert (x.dtype, x.shape) == (self.array.dtype, self.array.shape)
        x[:] = self.array


def sample(logits, history, sampling, bounds, step=0, first_count=None):
    """The whole way with the vocabulary cut at `bounds`; asks again for everything when top-p needs it."""
    penalised = sampling.penalised(history)
    wanted, temperature = sampling.asks(len(penalised))
    if first_count is not None and wanted != ALL:
        wanted = first_count
    for count, heat in ((wanted, temperature), (ALL, 0.0)):
        parts = []
        for start, stop in zip(bounds, bounds[1:], strict=False):
            own = candidates(logits[start:stop], start, count, heat)
            parts.append(Candidates.receive(Sent(own.pack()), 1, Range(start, stop), count))
        token = choose(parts, sampling, step, penalised)
        if token is not None:
            return token
    raise AssertionError("everything was sent, and it was not enough")


def transformers_probabilities(logits, history, sampling):
    chain = LogitsProcessorList()
    window = history[-sampling.penalty_window :] if sampling.penalty_window else history
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    scores = chain(torch.tensor([window]), torch.tensor(logits)[None].double())
    return torch.softmax(scores[0], -1).numpy()


@settings(max_examples=150, deadline=None)
@given(samplings, st.integers(0, 2**31), st.integers(2, 4))
def test_cuts_do_not_change_the_token_and_transformers_agrees(sampling, seed, ranks):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(300) * 3).astype(np.float32)
    history = rng.integers(0, 300, 12).tolist()
    bounds = [0, *sorted(rng.choice(np.arange(1, 300), ranks - 1, replace=False).tolist()), 300]
    whole = sample(logits, history, sampling, [0, 300])
    assert whole == sample(logits, history, sampling, bounds)
    if not sampling.greedy and not sampling.top_k:  # seven candidates may not do; then everything is asked for
        assert whole == sample(logits, history, sampling, bounds, first_count=7)
    probability = transformers_probabilities(logits, history, sampling)
    assert probability[whole] > 0
    if sampling.greedy:
        assert whole == probability.argmax()


@settings(max_examples=300, deadline=None)
@given(samplings, st.integers(0, 2**31), st.integers(1, 4), st.booleans())
def test_penalised_candidates_are_those_of_penalised_slices(sampling, seed, ranks, ties):
    """What rank 0 penalises after asking for some candidates, against penalising everything before."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal(80) * 3).astype(np.float32)
    if ties:
        logits = np.round(logits)
    history = rng.choice(np.argsort(logits)[-20:], 12).tolist()  # likely tokens, so that it matters
    bounds = [0, *sorted(rng.choice(np.arange(1, 80), ranks - 1, replace=False).tolist()), 80]
    everything = penalise(candidates(logits, 0, ALL), sampling.penalised(history), sampling.repetition_penalty)
    expected = choose([everything], replace(sampling, repetition_penalty=1.0), 0, np.empty(0, np.int64))
    assert sample(logits, history, sampling, bounds) == expected


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0), Sampling(0.7, top_k=5), Sampling(1.3, top_p=0.8), Sampling(0.9, 20, 0.7, 1.2)]
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
    one = [sample(logits, [], Sampling(1.0, seed=1), [0, 1000], step) for step in range(5)]
    assert one == [sample(logits, [], Sampling(1.0, seed=1), [0, 500, 1000], step) for step in range(5)]
    assert one != [sample(logits, [], Sampling(1.0, seed=2), [0, 1000], step) for step in range(5)]
    assert len(set(one)) > 1


@pytest.mark.parametrize(
    "sampling, message",
    [
        (Sampling(temperature=-1), "--temperature -1 is out of range; it must be 0 or more"),
        (Sampling(top_p=0), "--top-p 0 is out of range; it must be above 0 and at most 1"),
        (Sampling(top_k=-5), "--top-k -5"),
        (Sampling(repetition_penalty=0), "--repetition-penalty 0"),
    ],
)
def test_values_out_of_range(sampling, message):
    with pytest.raises(RunError, match=message):
        sampling.check()
