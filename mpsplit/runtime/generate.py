"""The token loop: one request in, tokens out. It runs on rank 0; the others follow its orders (orders.py).

Each round every rank steps its engine; the ranks with rows of the head send their candidates to rank 0, which chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.runtime.account import Counted
from mpsplit.runtime.engine import Engine
from mpsplit.runtime.follow import follow
from mpsplit.runtime.orders import ALL, END, LEAD, MORE, NOTHING, REPORT, STEP, Order, Orders
from mpsplit.runtime.requests import Generation, Request, Stats
from mpsplit.runtime.sampling import Candidates, Sampling, candidates, choose
from mpsplit.runtime.text import Stream, Text


class TokenLoop:
    def __init__(self, engine: Engine, comm: Communicator, text: Text | None, chunk: int = 128):
        self.engine, self.comm, self.text, self.chunk = engine, comm, text, chunk
        self.plan, self.facts = engine.manifest.plan, engine.manifest.facts
        self.orders, self.counted = Orders(comm), Counted(engine)
        self.cached: list[int] = []  # the tokens behind the engine's KV cache

    def generate(self, request: Request, on_text: Callable[[str], None] = lambda piece: None) -> Generation:
        """Rank 0: answers one request, together with the ranks that follow."""
        self._check(request)
        began = time.perf_counter()
        stream = Stream(self.text, request.stops) if self.text else None
        history = list(request.prompt)
        reused = self._reusable(request.prompt)
        first_token_at = 0.0
        finish = ""
        while not finish:
            token = self._next(history, request.sampling)
            finish = self._verdict(token, history, request, stream)
            first_token_at = first_token_at or time.perf_counter()
            history.append(token)
            if stream:
                on_text(stream.take())
        done = time.perf_counter()
        if stream:
            stream.finish()
            on_text(stream.take())
        new = history[len(request.prompt) :]
        self.orders.give(Order(REPORT))
        accounts = tuple(self.counted.report(self.comm))
        stats = Stats(
            prompt_tokens=len(request.prompt),
            cached_tokens=reused,
            new_tokens=len(new),
            prefill_tok_s=(len(request.prompt) - reused) / (first_token_at - began),
            decode_tok_s=(len(new) - 1) / (done - first_token_at) if len(new) > 1 else 0.0,
            time_to_first_token_s=first_token_at - began,
            bytes_between_ranks=sum(account.sent for account in accounts),
            peak_rss_bytes=tuple(account.peak_rss for account in accounts),
            accounts=accounts,
        )
        return Generation(stream.whole if stream else None, tuple(new), finish, stats)

    def follow(self) -> None:
        """The other ranks: take part in every request until rank 0 ends."""
        follow(self.engine, self.comm)

    def end(self) -> None:
        """Rank 0: no more requests."""
        self.orders.give(Order(END))

    def _check(self, request: Request) -> None:
        request.sampling.check()
        context, vocabulary = self.facts.context, self.facts.vocabulary
        if not request.prompt:
            raise RunError("the prompt is empty; give at least one token")
        if len(request.prompt) >= context:
            raise RunError(
                f"the prompt has {len(request.prompt)} tokens, the context {context}; shorten it to {context - 1} or fewer"
            )
        if wrong := [token for token in request.prompt if not 0 <= token < vocabulary]:
            raise RunError(
                f"token {wrong[0]} is not in the vocabulary of {vocabulary}; ids go from 0 to {vocabulary - 1}"
            )
        if request.max_new_tokens < 1:
            raise RunError(f"--max-new-tokens {request.max_new_tokens} is out of range; it must be at least 1")
        if request.stops and self.text is None:
            raise RunError("stop strings need a tokenizer, and this package has none; leave --stop out")

    def _reusable(self, prompt: tuple[int, ...]) -> int:
        """How many tokens of the prompt the cache holds: all of its own, when the conversation goes on, or none."""
        if not (len(self.cached) < len(prompt) and list(prompt[: len(self.cached)]) == self.cached):
            self.cached = []
        return len(self.cached)

    def _next(self, history: list[int], sampling: Sampling) -> int:
        """Feeds what the cache does not hold of the history, in chunks, and chooses the token after it."""
        penalised = sampling.penalised(history)
        wanted, temperature = sampling.asks(len(penalised))
        for start in range(len(self.cached), len(history), self.chunk):
            tokens = history[start : start + self.chunk]
            last = start + len(tokens) == len(history)
            order = Order(STEP, start, len(tokens), wanted if last else NOTHING, tokens[0], temperature)
            self.orders.give(order, tokens)
            logits = self.counted.step(tokens, start)[-1]
            self.cached += tokens
        token = choose(self._gather(logits, wanted, temperature), sampling, len(history), penalised)
        if token is None:
            self.orders.give(Order(MORE, wanted=ALL))
            token = choose(self._gather(logits, ALL, 0.0), sampling, len(history), penalised)
        return token

    def _gather(self, logits: np.ndarray, wanted: int, temperature: float) -> list[Candidates]:
        """What every rank with rows of the head has to offer, this one's among it."""
        return [
            candidates(logits, shard.head.start, wanted, temperature)
            if shard.rank == LEAD
            else Candidates.receive(self.comm, shard.rank, shard.head, wanted)
            for shard in self.plan.shards
            if len(shard.head)
        ]

    def _verdict(self, token: int, history: list[int], request: Request, stream: Stream | None) -> str:
        """Why this token is the last one, if it is; its text joins the stream."""
        made = len(history) - len(request.prompt) + 1
        if token in self.engine.manifest.eos and not request.ignore_eos:
            return "eos"
        if stream:
            stream.push(token)
            if stream.stopped:
                return "stop"
        if made >= request.max_new_tokens:
            return "length"
        if len(history) + 1 >= self.facts.context:
            return "context"
        return ""
