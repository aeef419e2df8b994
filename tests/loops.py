"""Token loops for tests: engines that are a formula, ranks that are threads, and listeners."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager

import numpy as np

from mpsplit.comm.link_counts import nothing
from mpsplit.native import cpp
from mpsplit.package.manifest import Manifest, Rope
from mpsplit.plan.shards import Plan, Range, even_plan
from mpsplit.runtime.engine.engine_protocol import UNSHARED, UNTOLD, KeepsNothing, each_span
from mpsplit.runtime.engine.replay import OneHistory, Replay
from mpsplit.runtime.loop.follow import follow
from mpsplit.runtime.loop.loop_protocol import Generation, Piece
from mpsplit.runtime.loop.orders import LEAD
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.models import facts

EOS = 130
ENGINES = ("native", "stock") if cpp.load("_engine") else ("stock",)


def bare_manifest(name: str, plan: Plan) -> Manifest:
    """Of a package without files, for an engine that is a formula."""
    return Manifest(name, facts(), plan, Rope((), 1.0), "F32", (EOS,), (), (), (), {})


def lead(loop, world, work):
    """Runs `work` on rank 0 while the others follow."""
    if world.rank:
        loop.follow()
    else:
        try:
            work()
        finally:
            loop.end()


class Threads:
    """One of `size` ranks in this process; writes down what it waited for patiently."""

    def __init__(self, rank, size, mail):
        self.rank, self.size, self.mail, self.listened, self.awaited = rank, size, mail, 0, 0
        self.passed, self.local_size = nothing(size), size

    @classmethod
    def world(cls, size):
        mail = {(a, b): queue.Queue() for a in range(size) for b in range(size)}
        return [cls(rank, size, mail) for rank in range(size)]

    def send(self, x, peer):
        self.mail[self.rank, peer].put(np.array(x))

    def recv(self, x, peer):
        sent = self.mail[peer, self.rank].get(timeout=20)
        assert (sent.dtype, sent.shape) == (x.dtype, x.shape)
        x[:] = sent

    def broadcast(self, x, root):
        if self.rank == root:
            for peer in range(self.size):
                if peer != root:
                    self.send(x, peer)
        else:
            self.awaited += 1
            self.recv(x, root)

    def tell(self, x):
        self.broadcast(x, LEAD)

    def listen(self, x):
        self.listened += 1
        self.recv(x, LEAD)

    def wait(self):
        self.all_gather(np.zeros(1))

    def all_gather(self, x):
        for peer in range(self.size):
            self.send(x, peer)
        parts = [np.empty_like(x) for _ in range(self.size)]
        for peer, part in enumerate(parts):
            self.recv(part, peer)
        return np.concatenate(parts)


class Rows(OneHistory):
    """Logits that depend on all tokens so far, cut as a plan cuts them."""

    bytes_sent, seconds = 0, 0.0

    def __init__(self, rank, tensor, pipeline=1):
        plan = even_plan(facts(), tensor, pipeline)
        self.manifest = bare_manifest("rows", plan)
        self.vocabulary, self.tokens, self.steps, self.pages = plan.shards[rank].head, [], [], Replay()

    def step(self, tokens, position, every_row=False):
        self.steps.append((position, len(tokens)))
        self.tokens = [*self.tokens[:position], *map(int, tokens)]
        self.bytes_sent += 100
        generator = np.random.default_rng([sum(self.tokens), len(self.tokens)])
        logits = np.float32(generator.standard_normal((1, facts().vocabulary)) * 3)
        return logits[:, self.vocabulary.start : self.vocabulary.stop]


@contextmanager
def led(tensor, pipeline, **how):
    """A loop whose ranks follow it until the block ends; all engines, and all communicators."""
    comms = Threads.world(tensor * pipeline)
    engines = [Rows(comm.rank, tensor, pipeline) for comm in comms]
    others = [
        threading.Thread(target=follow, args=pair, daemon=True) for pair in list(zip(engines, comms, strict=True))[1:]
    ]
    for other in others:
        other.start()
    loop = TokenLoop(engines[0], comms[0], None, **how)
    yield loop, engines, comms
    loop.end()
    for other in others:
        other.join(20)
        assert not other.is_alive()


class Transcript:
    """A listener: what was heard, in order."""

    def __init__(self):
        self.pieces, self.ends = [], []

    def __call__(self, said):
        assert not self.ends, "nothing comes after the end"
        (self.pieces if isinstance(said, Piece) else self.ends).append(said)

    @property
    def tokens(self):
        return tuple(chosen.id for piece in self.pieces for chosen in piece.chosen)


def finished(loop, requests) -> list[Generation]:
    """How each request ended, all of them together in one loop."""
    listeners = [Transcript() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        loop.submit(request, listener)
    while loop.turn():
        pass
    for listener in listeners:
        (end,) = listener.ends
        assert isinstance(end, Generation) and end.token_ids == listener.tokens
    return [listener.ends[0] for listener in listeners]


class TableEngine(KeepsNothing):
    """After token t comes t + 1; writes down every part of a step."""

    def __init__(self):
        self.manifest = bare_manifest("table", even_plan(facts(), 1, 1))
        self.vocabulary, self.bytes_sent, self.seconds, self.spent = Range(0, 131), 0, 0.0, UNTOLD
        self.shared_work = UNSHARED
        self.steps, self.placed = [], []

    def reserve(self, pages, stored):
        self.placed.clear()

    def place(self, slot, first, pages):
        self.placed.append((slot, first, list(pages)))

    def batch(self, tokens, parts):
        logits = np.ones((len(parts), 131), np.float32)
        for row, (own, part) in enumerate(each_span(tokens, parts)):
            self.steps.append((part.position, list(own)))
            logits[row, (own[-1] + 1) % 131] = 5
        return logits
