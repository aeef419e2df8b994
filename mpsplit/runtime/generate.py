"""The token loop: one request in, tokens out, the same calls on every rank. Rank 0 leads, the others follow.

Each round every rank steps its engine; the ranks with rows of the head send their candidates to rank 0, which chooses, and
tells all ranks the token together with its verdict: go on, send more candidates, or why this was the last one.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.runtime.engine import Engine
from mpsplit.runtime.sampling import Candidates, Sampling, candidates, choose, penalise
from mpsplit.runtime.text import Stream, Text

LEAD = 0
FINISHES = ("", "eos", "stop", "length", "context")  # the verdict is an index; "" goes on
MORE = -1  # verdict: every rank sends its whole slice


@dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    max_new_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class Stats:
    """Seconds as measured on rank 0; bytes handed to the transport for this request, summed over the ranks; peak RSS a rank."""

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    time_to_first_token_s: float
    bytes_between_ranks: int
    peak_rss_bytes: tuple[int, ...]

    def __str__(self) -> str:
        rss = ", ".join(f"{size / 2**20:.0f}" for size in self.peak_rss_bytes)
        return (
            f"prefill {self.prefill_tok_s:.1f} tok/s, decode {self.decode_tok_s:.1f} tok/s, "
            f"first token after {self.time_to_first_token_s * 1000:.0f} ms, "
            f"{self.bytes_between_ranks / max(1, self.new_tokens) / 1024:.1f} KiB a token between ranks, peak MiB a rank: {rss}"
        )


@dataclass(frozen=True)
class Generation:
    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: str
    stats: Stats


class TokenLoop:
    def __init__(self, engine: Engine, comm: Communicator, text: Text | None, chunk: int = 128):
        self.engine, self.comm, self.text, self.chunk = engine, comm, text, chunk
        self.plan, self.facts = engine.manifest.plan, engine.manifest.facts
        self.cached: list[int] = []  # the tokens behind the engine's KV cache

    def generate(self, request: Request, on_text: Callable[[str], None] = lambda piece: None) -> Generation:
        """Rank 0: answers one request, together with the ranks that follow."""
        self._check(request)
        self.comm.tell(request)
        return self._run(request, on_text)

    def follow(self) -> None:
        """The other ranks: take part in every request until rank 0 ends."""
        while (request := self.comm.listen()) is not None:
            self._run(request, lambda piece: None)

    def end(self) -> None:
        """Rank 0: no more requests."""
        self.comm.tell(None)

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

    def _run(self, request: Request, on_text: Callable[[str], None]) -> Generation:
        began, sent = time.perf_counter(), self.engine.bytes_sent
        stream = Stream(self.text, request.stops) if self.text and self.comm.rank == LEAD else None
        history = list(request.prompt)
        logits, reused = self._prefill(request.prompt)
        first_token_at = 0.0
        finish = ""
        while not finish:
            token, finish = self._agree(logits, history, request, stream)
            first_token_at = first_token_at or time.perf_counter()
            history.append(token)
            if stream:
                on_text(stream.take())
            if not finish:
                logits = self._step([token])
        done = time.perf_counter()
        if stream:
            stream.finish()
            on_text(stream.take())
        new = history[len(request.prompt) :]
        totals = self.comm.exchange((self.engine.bytes_sent - sent, peak_rss_bytes()))
        stats = Stats(
            prompt_tokens=len(request.prompt),
            cached_tokens=reused,
            new_tokens=len(new),
            prefill_tok_s=(len(request.prompt) - reused) / (first_token_at - began),
            decode_tok_s=(len(new) - 1) / (done - first_token_at) if len(new) > 1 else 0.0,
            time_to_first_token_s=first_token_at - began,
            bytes_between_ranks=sum(sent for sent, _ in totals),
            peak_rss_bytes=tuple(rss for _, rss in totals),
        )
        return Generation(stream.whole if stream else None, tuple(new), finish, stats)

    def _prefill(self, prompt: tuple[int, ...]) -> tuple[np.ndarray, int]:
        """Feeds the prompt in chunks; a conversation that goes on keeps what the cache already holds."""
        reused = len(self.cached)
        if not (reused < len(prompt) and list(prompt[:reused]) == self.cached):
            reused, self.cached = 0, []
        for start in range(reused, len(prompt), self.chunk):
            logits = self._step(list(prompt[start : start + self.chunk]))
        return logits, reused

    def _step(self, tokens: list[int]) -> np.ndarray:
        """Logits [rows of the head] after the last of the tokens."""
        logits = self.engine.step(tokens, len(self.cached))[-1]
        self.cached += tokens
        return logits

    def _agree(
        self, logits: np.ndarray, history: list[int], request: Request, stream: Stream | None
    ) -> tuple[int, str]:
        """The next token and why it is the last one, if it is: the same answer on every rank."""
        sampling = request.sampling
        first = self.engine.vocabulary.start
        logits = penalise(logits, first, history, sampling)
        wanted = sampling.wanted()
        answer = np.zeros(2, np.int64)
        while True:
            own = candidates(logits, first, sampling, wanted) if len(logits) else None
            if self.comm.rank == LEAD:
                token = choose(self._gather(own, wanted), sampling, step=len(history))
                answer[:] = (0, MORE) if token is None else (token, self._verdict(token, history, request, stream))
            elif own is not None:
                self.comm.send(own.pack(), LEAD)
            self.comm.broadcast(answer, LEAD)
            token, verdict = map(int, answer)
            if verdict != MORE:
                return token, FINISHES[verdict]
            wanted = 0

    def _gather(self, own: Candidates | None, wanted: int) -> list[Candidates]:
        parts = []
        for shard in self.plan.shards:
            rows = len(shard.head)
            if shard.rank == LEAD and own is not None:
                parts.append(own)
            elif rows:
                packed = np.empty(2 + 2 * min(wanted or rows, rows))
                self.comm.recv(packed, shard.rank)
                parts.append(Candidates.unpack(packed))
        return parts

    def _verdict(self, token: int, history: list[int], request: Request, stream: Stream | None) -> int:
        """Rank 0: whether this token is the last one; its text joins the stream."""
        made = len(history) - len(request.prompt) + 1
        if token in self.engine.manifest.eos and not request.ignore_eos:
            return FINISHES.index("eos")
        if stream:
            stream.push(token)
            if stream.stopped:
                return FINISHES.index("stop")
        if made >= request.max_new_tokens:
            return FINISHES.index("length")
        if len(history) + 1 >= self.facts.context:
            return FINISHES.index("context")
        return 0


def peak_rss_bytes() -> int:
    """The most memory this process ever held, as the kernel counts it (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
