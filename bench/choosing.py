"""What choosing one token costs rank 0, for every combination of settings.

    python bench/choosing.py [--vocabulary 128256] [--history 32000] [--tokens 30] [--json]

Method: one rank that owns the whole head, the worst case for rank 0. The engine is an array; all
that runs between two steps of it is timed: the wish, what is told to the ranks, the answer of this
rank's own slice, the draw. The history grows by each token. Two kinds of logits: `peaked`, where a
few hundred tokens have nearly all of the weight, and `normal`, three times a standard normal, where
top-p 0.9 leaves some 5,000. `ms` is the median of single requests, `eight` of eight in one step.
Small logits of other kinds are in tests/runtime/choose.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from functools import partial

import numpy as np

from mpsplit.comm import Alone
from mpsplit.plan.shards import Range
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.engine.engine_protocol import Span
from mpsplit.runtime.engine.pages import HeldPages
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.live_request import LiveRequest
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.loop.order_numbers import Question

DRAWS = {
    "greedy": {},
    "temperature": dict(temperature=0.8),
    "top_k 40": dict(temperature=0.8, top_k=40),
    "top_p 0.9": dict(temperature=0.8, top_p=0.9),
    "min_p 0.05": dict(temperature=0.8, min_p=0.05),
    "top_k, top_p, min_p": dict(temperature=0.8, top_k=40, top_p=0.9, min_p=0.05),
    "top_p, min_p": dict(temperature=0.8, top_p=0.9, min_p=0.02),
}
TILTS = {
    "": {},
    "repetition": dict(repetition_penalty=1.1),
    "raising": dict(repetition_penalty=0.9),
    "all three": dict(repetition_penalty=1.1, presence_penalty=0.3, frequency_penalty=0.1),
    "window 64": dict(repetition_penalty=1.1, penalty_window=64),
    "logit_bias": dict(logit_bias=tuple((token, -100.0) for token in range(0, 3000, 10))),
}


class Logits:
    """An engine whose logits are there already."""

    bytes_sent, seconds = 0, 0.0
    spent = np.zeros(10, np.int64)

    def __init__(self, rows: list[np.ndarray]):
        self.rows, self.vocabulary, self.turn = rows, Range(0, len(rows[0])), 0
        shard = type("Shard", (), dict(rank=0, head=self.vocabulary))
        plan = type("Plan", (), dict(shards=[shard], ranks=1))
        self.manifest = type("Manifest", (), dict(plan=plan))

    def batch(self, tokens, spans) -> np.ndarray:
        self.turn += 1
        return np.stack([self.rows[(self.turn + i) % len(self.rows)] for i in range(len(spans))])


class Mask:
    def __init__(self, allowed: np.ndarray):
        self.mask = allowed

    def allowed(self) -> np.ndarray:
        return self.mask

    def accept(self, token: int) -> None: ...


def logits_of(kind: str, vocabulary: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [np.float32(rng.standard_normal(vocabulary) * 3) for _ in range(4)]
    if kind == "peaked":
        for row in rows:
            row[rng.choice(vocabulary, 300, replace=False)] += np.float32(rng.exponential(5, 300)) + 10
    return rows


def measured(logits: list[np.ndarray], history: list[int], requests: list[Request], tokens: int) -> float:
    """Seconds a step of these requests, the engine left out."""
    engine = Logits(logits)
    ranks = Ranks(engine, Alone())
    lives = [LiveRequest(request, lambda event: None, None) for request in requests]
    for slot, live in enumerate(lives):
        live.begin(slot, HeldPages([], []), 0)
    took = []
    batch = engine.batch
    for _ in range(tokens + 1):
        inside = 0.0

        def timed(tokens, spans):
            nonlocal inside
            began = time.thread_time()
            rows = batch(tokens, spans)
            inside = time.thread_time() - began
            return rows

        engine.batch = timed
        began = time.thread_time()
        questions = [Question.of(Span(live.slot, 0, 1), live.asks(ranks)) for live in lives]
        answers = ranks.step([0] * len(lives), questions)
        chosen = [
            live.choose(answer, partial(ranks.more, row))
            for row, (live, answer) in enumerate(zip(lives, answers, strict=True))
        ]
        took.append(time.thread_time() - began - inside)
        for live, token in zip(lives, chosen, strict=True):
            live.history.append(token.id)
    return statistics.median(took[1:])  # the first counts the whole prompt


def cases(vocabulary: int):
    mask = np.random.default_rng(1).random(vocabulary) < 0.3
    for (draw, how), (tilt, what), logprobs, grammar in itertools.product(
        DRAWS.items(), TILTS.items(), (None, 20), (None, partial(Mask, mask))
    ):
        name = ", ".join(
            [draw, *filter(None, [tilt]), *(["logprobs 20"] if logprobs else []), *(["grammar"] if grammar else [])]
        )
        yield name, Sampling(seed=7, **how, **what).check(), logprobs, grammar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--history", type=int, default=32000)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--only", default="", help="of the settings those that have this in their name")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    # as natural text has it: few tokens often, many seldom
    history = (np.random.default_rng(2).zipf(1.2, 4 * words.history) - 1).tolist()
    history = [token for token in history if token < words.vocabulary][: words.history]
    rows = []
    for kind in ("peaked", "normal"):
        logits = logits_of(kind, words.vocabulary)
        for name, sampling, logprobs, grammar in cases(words.vocabulary):
            if words.only not in name:
                continue
            request = Request(tuple(history), 64, sampling, logprobs=logprobs, grammar=grammar)
            one = measured(logits, history, [request], words.tokens)
            eight = measured(logits, history, [request] * 8, words.tokens // 3)
            rows.append(dict(logits=kind, settings=name, ms=one * 1e3, eight=eight * 1e3))
            if not words.json:
                print(f"{kind:7} {name:60} {one * 1e3:7.3f} {eight * 1e3:7.3f}", flush=True)
    if words.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
