"""What choosing one token costs rank 0, for every combination of settings.

    python bench/choosing.py [--ranks 1] [--vocabulary 128256] [--history 32000] [--json]

Method: the engine is an array. All that rank 0 does between two steps of it is timed: the wish,
what is told to the ranks, the answer of its own slice, the draw. The other ranks answer within its
calls, and their time is left out, as they work beside it; so is what a message takes. One rank owns
the whole head, the worst case for rank 0; several own equal parts of it. The history grows by each
token. `peaked`: a few hundred tokens have nearly all of the weight. `flat`: three times a standard
normal, where top-p 0.9 leaves some 5,000. In ms by the clock, the median of the tokens: of one
request alone, and of eight in one step together. OMP_NUM_THREADS says how many threads may draw.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import deque
from functools import partial

import numpy as np

from mpsplit.comm import Alone
from mpsplit.plan.shards import Range
from mpsplit.runtime.choose.answers import bits_of
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.engine.engine_protocol import Span
from mpsplit.runtime.engine.pages import HeldPages
from mpsplit.runtime.loop.follow import HANDLERS, Follower
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.live_request import LiveRequest
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.loop.order_numbers import Question
from mpsplit.runtime.loop.orders import Order

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


VERBS = {int(verb): verb for verb in HANDLERS}
BARS = {"1": 0.3, "8": 2.0}  # ms, of one request and of eight


class Logits:
    """An engine of one rank whose logits are there already."""

    bytes_sent, seconds = 0, 0.0
    spent = np.zeros(10, np.int64)
    shared_work = np.zeros(3, np.int64)

    def __init__(self, rows: list[np.ndarray], cuts: list[int], rank: int):
        heads = [Range(*pair) for pair in zip(cuts, cuts[1:], strict=False)]
        self.vocabulary, self.turn = heads[rank], 0
        self.rows = [row[self.vocabulary.start : self.vocabulary.stop] for row in rows]
        shards = [type("Shard", (), dict(rank=i, head=head)) for i, head in enumerate(heads)]
        self.manifest = type("Manifest", (), dict(plan=type("Plan", (), dict(shards=shards, ranks=len(heads)))))

    def reserve(self, pages, stored) -> None: ...

    def place(self, slot, first, pages) -> None: ...

    def batch(self, tokens, spans) -> np.ndarray:
        self.turn += 1
        return np.stack([self.rows[(self.turn + i) % len(self.rows)] for i in range(len(spans))])


class Sends(Alone):
    """What a follower sends waits for rank 0."""

    def __init__(self):
        super().__init__()
        self.sent: deque[np.ndarray] = deque()

    def send(self, x, peer) -> None:
        self.sent.append(x.copy())


class Leads(Alone):
    """Rank 0's side. The others obey within its calls, and `outside` is their time."""

    def __init__(self, followers: list[Follower]):
        super().__init__()
        self.followers, self.size, self.outside = followers, 1 + len(followers), 0.0
        self.order: Order | None = None  # whose numbers come next

    def broadcast(self, x, root) -> None:
        began = time.perf_counter()
        numbers = None if self.order is None else x
        order = self.order or Order.unpack(x)
        order = order._replace(verb=VERBS[order.verb])
        if numbers is None and order.verb.numbered and order.count > 1:
            self.order = order
        else:
            self.order = None
            if numbers is None:
                numbers = np.full(order.count if order.verb.numbered else 0, order.token)
            for follower in self.followers:
                HANDLERS[order.verb](follower, order, numbers)
        self.outside += time.perf_counter() - began

    def tell(self, x) -> None:
        self.broadcast(x, 0)

    def recv(self, x, peer) -> None:
        x[:] = self.followers[peer - 1].comm.sent.popleft()


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


def measured(logits: list[np.ndarray], requests: list[Request], tokens: int, ranks: int) -> float:
    """Seconds of rank 0 a step of these requests, the engine left out."""
    cuts = [len(logits[0]) * i // ranks for i in range(ranks + 1)]
    comm = Leads([Follower(Logits(logits, cuts, rank), Sends()) for rank in range(1, ranks)])
    engine = Logits(logits, cuts, 0)
    led = Ranks(engine, comm if ranks > 1 else Alone())
    lives = [LiveRequest(request, lambda event: None, None) for request in requests]
    led.reserve(len(lives), "f32")
    for slot, live in enumerate(lives):
        live.begin(slot, HeldPages([], []), 0)
        led.place(slot, 0, [slot])
    took = []
    batch = engine.batch

    def outside(tokens, spans):
        began = time.perf_counter()
        rows = batch(tokens, spans)
        comm.outside += time.perf_counter() - began
        return rows

    engine.batch = outside
    for _ in range(tokens + 2):
        comm.outside, began = 0.0, time.perf_counter()
        questions = [Question.of(Span(live.slot, 0, 1), live.asks(led)) for live in lives]
        answers = led.step([0] * len(lives), questions, [live.choice for live in lives])
        chosen = [
            live.choose(answer, partial(led.more, row))
            for row, (live, answer) in enumerate(zip(lives, answers, strict=True))
        ]
        took.append(time.perf_counter() - began - comm.outside)
        for live, token in zip(lives, chosen, strict=True):
            live.history.append(token.id)
    return statistics.median(took[2:])  # the first counts the whole prompt, and memory is new


def cases(vocabulary: int):
    mask = np.random.default_rng(1).random(vocabulary) < 0.3
    for (draw, how), (tilt, what), logprobs, grammar in itertools.product(
        DRAWS.items(), TILTS.items(), (None, 20), (None, partial(Mask, bits_of(mask)))
    ):
        name = ", ".join(
            [draw, *filter(None, [tilt]), *(["logprobs 20"] if logprobs else []), *(["grammar"] if grammar else [])]
        )
        yield name, Sampling(seed=7, **how, **what).check(), logprobs, grammar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--history", type=int, default=32000)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--only", default="", help="of the settings those that have this in their name")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    # as natural text has it: few tokens often, many seldom
    history = (np.random.default_rng(2).zipf(1.2, 4 * words.history) - 1).tolist()
    history = [token for token in history if token < words.vocabulary][: words.history]
    kinds = {kind: logits_of(kind, words.vocabulary) for kind in ("peaked", "flat")}
    rows = []
    if not words.json:
        print(f"{'settings':58}   peaked 1       8     flat 1       8", flush=True)
    for name, sampling, logprobs, grammar in cases(words.vocabulary):
        if words.only not in name:
            continue
        request = Request(tuple(history), 64, sampling, logprobs=logprobs, grammar=grammar)
        ms = {
            f"{kind} {many}": measured(logits, [request] * many, max(3, words.tokens * 2 // (many + 1)), words.ranks)
            * 1e3
            for kind, logits in kinds.items()
            for many in (1, 8)
        }
        rows.append(dict(settings=name, **ms))
        if not words.json:
            print(f"{name:58}", "  ".join(f"{time:8.3f}" for time in ms.values()), flush=True)
    if words.json:
        print(json.dumps(rows))
    else:
        for many, bar in BARS.items():
            times = sorted(time for row in rows for name, time in row.items() if name.endswith(many))
            over = sum(time > bar for time in times)
            print(f"{many} at once: {times[0]:.3f} to {times[-1]:.3f} ms, {over} of {len(times)} over {bar:g}")


if __name__ == "__main__":
    main()
