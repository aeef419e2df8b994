"""The engine of follow_test.cpp in Python: logits that are a formula of all tokens so far."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpsplit.plan.shards import even_plan
from mpsplit.runtime.choose.answers import bits_of
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.engine.replay import OneHistory, Replay
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.loop.orders import greet
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.loops import bare_manifest
from tests.models import facts

SAMPLINGS = [
    Sampling(),
    Sampling(repetition_penalty=1.5),
    Sampling(repetition_penalty=0.7),
    Sampling(1.0, 5, 0.9, 1.2, seed=1),
    Sampling(2.0, seed=2),
    Sampling(1.0, top_p=0.05, seed=3),
    Sampling(5.0, top_p=0.9, seed=4),
    Sampling(5.0, min_p=0.1, frequency_penalty=0.3, penalty_window=5, seed=5),
    Sampling(2.0, logit_bias=((3, 4.0), (100, 9.0)), presence_penalty=-1.0, seed=6),
]


class Odd:
    def allowed(self):
        return bits_of(np.arange(facts().vocabulary) % 2 == 1)

    def accept(self, token):
        assert token % 2


class Formula(OneHistory):
    """As in follow_test.cpp; rank 0's slice."""

    def __init__(self, ranks):
        plan = even_plan(facts(), ranks, 1)
        self.manifest = bare_manifest("formula", plan)
        self.vocabulary, self.bytes_sent, self.seconds, self.sum = plan.shards[0].head, 0, 0.0, 0
        self.pages = Replay()

    def step(self, tokens, position, every_row=False):
        self.sum = int(np.sum(tokens)) + (self.sum if position else 0)
        x = float(self.sum + 1) * np.arange(1.0, len(self.vocabulary) + 1) * 0.618
        return np.float32((x - np.trunc(x)) * 8)[None]


def answers(engine, comm):
    """The tokens of one prompt with every sampling."""
    greet(engine, comm)
    loop = TokenLoop(engine, comm, None, chunk=4)
    asked = [Request((1, 2, 3, 4, 5, 6), 20, sampling, ignore_eos=True) for sampling in SAMPLINGS]
    asked += [replace(each, logprobs=5, grammar=Odd) for each in asked]
    found, loop.unused_seconds = [], 0.0
    for request in asked:
        found.append(loop.generate(request))
        loop.forget_unused()  # whoever computes on with what was forgotten answers otherwise
    loop.end()
    assert all(rss > 0 for one in found for rss in one.stats.peak_rss_bytes)
    return [one.token_ids for one in found]
