"""A token loop without a model: it says a prompt again, token by token, from a formula.

In: Requests. Out: what a real loop would tell.

Token i of an answer is token (i + shift) of its prompt, over and over, where shift is the seed at
temperatures above 0; a grammar takes the first that it allows, in the order of ids. Everything else
(threads, places, queue, cancelling) is as the server will find it.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from mpsplit.comm.link_counts import BYTES, MESSAGES, WAITED, WAITS, nothing
from mpsplit.errors import MpsplitError, RunError
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.choose.answers import allowed_of
from mpsplit.runtime.choose.choosing import ChosenToken
from mpsplit.runtime.choose.lexicon import Grammar
from mpsplit.runtime.engine.layer_kinds import KINDS
from mpsplit.runtime.loop.loop_protocol import Ending, Full, Generation, Listener, LoopLoad, Piece, Request, Stats
from mpsplit.runtime.loop.pulse import LoopHealth, RankSign
from mpsplit.runtime.talk.text import Stream, Text

EOS = 2
HALF = -0.6931  # every token's logarithm of its probability


@dataclass(eq=False)
class FakeRequest:
    request: Request
    listener: Listener
    stream: Stream | None
    grammar: Grammar | None
    tokens: list[int] = field(default_factory=list)
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    def __init__(self, text: Text | None, places: int = 4, waiting: int = 8, seconds: float = 0.0, context: int = 512):
        self.text, self.places, self.most, self.seconds = text, places, waiting, seconds
        self.package = Path("no package")
        self.facts = SimpleNamespace(context=context, vocabulary=512)
        self.queue: list[FakeRequest] = []
        self.running: list[FakeRequest] = []
        self.changed = threading.Condition()
        self.eos = (EOS,)
        self.ending = False
        self.requests: list[Request] = []  # all that were taken
        self.fails: MpsplitError | None = None  # what the next token meets
        self.step_age = 0.0
        self.script: list[int] = []  # what is said instead, before the end

    def submit(self, request: Request, listener: Listener) -> FakeRequest:
        request.sampling.check()
        if not request.prompt or any(token >= self.facts.vocabulary for token in request.prompt):
            raise RunError(f"a token is not in the vocabulary of {self.facts.vocabulary}")
        with self.changed:
            if self.ending:
                raise Ending("no new requests are taken")
            if len(self.queue) >= self.most:
                raise Full(f"{len(self.queue)} requests wait already; try again later")
            stream = Stream(self.text, request.stops) if self.text else None
            taken = FakeRequest(request, listener, stream, request.grammar() if request.grammar else None)
            self.queue.append(taken)
            self.requests.append(request)
            self.changed.notify()
        return taken

    def load(self) -> LoopLoad:
        used = len(self.running)
        return LoopLoad(used, len(self.queue), used, 0, self.places, self.facts.context)

    most_waiting = property(lambda self: self.most)

    def health(self) -> LoopHealth:
        return LoopHealth(self.step_age, 0.01, 30.0, (RankSign(0, 0.1, None), RankSign(1, self.step_age, None)))

    def ranks_now(self) -> list[dict]:
        busy = len(self.running) / self.places
        return [
            dict(
                rank=rank,
                host="here",
                stage=rank // 2,
                memory_bytes=(rank + 1) * 2**28,
                tok_s=9.0,
                busy=busy * 0.7,
                wait=busy * 0.2,
                threads_short=0.31 * (rank == 2),
                wait_p50_s=2e-6,
                wait_p99_s=3e-4,
                straggler=rank == 3,
            )
            for rank in range(4)
        ]

    def spent(self) -> tuple[Account, ...]:
        passed = nothing(4)
        passed[3, [BYTES, MESSAGES, WAITED, WAITS + 2]] = 4096, 2, 1_600, 2
        return tuple(Account(kinds=np.arange(len(KINDS)) * 10**6, passed=passed) for _ in range(4))

    def drain(self) -> None:
        self.ending = True

    def work(self, until: threading.Event) -> None:
        while True:
            with self.changed:
                while not (self.queue or self.running):
                    if until.is_set():
                        return
                    self.changed.wait(0.01)
                while self.queue and len(self.running) < self.places:
                    self.running.append(self.queue.pop(0))
            time.sleep(self.seconds)
            for live in list(self.running):
                if finish := self._token(live):
                    self.running.remove(live)
                    self._tell_end(live, finish)
            for live in [live for live in self.queue if live.cancelled]:
                self.queue.remove(live)
                self._tell_end(live, "cancelled")

    def _token(self, live: FakeRequest) -> str:
        """Why it was the last one, if it was."""
        if live.cancelled:
            return "cancelled"
        request = live.request
        try:
            token = self._choose(live)
        except RunError as wrong:
            self.running.remove(live)
            live.listener(wrong)
            return ""
        live.tokens.append(token)
        if live.grammar:
            live.grammar.accept(token)
        ended = token == EOS and not request.ignore_eos
        if live.stream and not ended:
            live.stream.push(token)
        likely = tuple((token + i, HALF - i) for i in range(request.logprobs or 0))
        probability = None if request.logprobs is None else HALF
        live.listener(Piece(live.stream.take() if live.stream else "", (ChosenToken(token, probability, likely),)))
        if ended:
            return "eos"
        if live.stream and live.stream.stopped:
            return "stop"
        if len(live.tokens) >= request.max_new_tokens:
            return "length"
        return "context" if len(request.prompt) + len(live.tokens) >= self.facts.context else ""

    def _choose(self, live: FakeRequest) -> int:
        if self.fails:
            wrong, self.fails = self.fails, None
            raise wrong
        if live.grammar:
            allowed = np.flatnonzero(allowed_of(live.grammar.allowed()))
            if not len(allowed):
                raise RunError("the grammar allows no token here")
            return int(allowed[0])
        request = live.request
        if self.script:
            return [*self.script, EOS][len(live.tokens)]
        return request.prompt[
            (len(live.tokens) + request.sampling.seed * (not request.sampling.greedy)) % len(request.prompt)
        ]

    def _tell_end(self, live: FakeRequest, finish: str) -> None:
        text = None
        if live.stream:
            live.stream.finish()
            if rest := live.stream.take():
                live.listener(Piece(rest, ()))
            text = live.stream.whole
        stats = Stats(
            len(live.request.prompt), 1, len(live.tokens), 1000.0, 50.0, 0.01, 1024 * len(live.tokens), (1,), ()
        )
        live.listener(Generation(text, tuple(live.tokens), finish, stats))

    def idle(self) -> bool:
        """Whether nothing runs or waits, after a while at most."""
        for _ in itertools.repeat(None, 500):
            if not (self.running or self.queue):
                return True
            time.sleep(0.01)
        return False
