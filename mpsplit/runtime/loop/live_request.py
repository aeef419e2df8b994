"""One request while it waits and runs: what it was asked, what it has answered, what it holds.

Changed by the token loop alone.

In: tokens as they are chosen. Out: pieces and one Generation, to its listener.
"""

from __future__ import annotations

import time
from operator import add

from mpsplit.runtime.account.account import Account
from mpsplit.runtime.choose.answers import Wish
from mpsplit.runtime.choose.candidates import Answer
from mpsplit.runtime.choose.choosing import AskAgain, Choice, ChosenToken
from mpsplit.runtime.choose.tilt import Tilt
from mpsplit.runtime.engine.pages import HeldPages
from mpsplit.runtime.loop.faults import LOG, told
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.loop_protocol import Generation, Listener, Piece, Request, Stats
from mpsplit.runtime.talk.text import Stream, Text


class LiveRequest:
    def __init__(self, request: Request, listener: Listener, text: Text | None):
        self.request, self.listener = request, listener
        self.history = list(request.prompt)
        self.stream = Stream(text, request.stops) if text else None
        self.grammar = request.grammar() if request.grammar else None
        self.slot, self.held = -1, HeldPages(request.salt)
        self.choice: Choice | None = None  # the choice to be made next
        self.wide = 0  # as Choice has it
        self.tilt = Tilt(request.sampling)
        self.fed = 0  # tokens of the history that the cache holds
        self.placed = 0  # pages that all ranks know of
        self.cached = 0  # tokens of the prompt that the cache held when it began
        self.rows = 0  # fed since the last report
        self.bytes_sent = 0.0  # between ranks, its share
        self.accounts: tuple[Account, ...] = ()
        self.cancelled = self.warmed = False
        self.asked_at = time.perf_counter()
        self.began_at = self.first_token_at = self.stopped_at = 0.0
        self.kept: dict[str, int | str] = {}  # as a Generation has it

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def left(self) -> int:
        """Tokens that must be fed before the next one can be chosen."""
        return len(self.history) - self.fed

    @property
    def new(self) -> int:
        return len(self.history) - len(self.request.prompt)

    def begin(self, slot: int, held: HeldPages, known: int) -> None:
        """It runs from now on; the cache holds so many of its tokens."""
        self.slot, self.held, self.fed, self.placed = slot, held, known, 0
        self.tilt.fresh = True
        if not self.began_at:
            self.began_at, self.cached = time.perf_counter(), known

    def asks(self, ranks: Ranks) -> Wish:
        """What it wants to know of each rank's logits, once the ranks know what changes these."""
        allowed = self.grammar.allowed() if self.grammar else None
        self.choice = Choice(self.request.sampling, self.history, self.request.logprobs, allowed, self.wide)
        if self.tilt and len(changes := self.tilt.changes(self.history)):
            ranks.tilt(self.slot, self.tilt.fresh, changes)
            self.tilt.fresh = False
        if allowed is not None:
            ranks.mask(self.slot, allowed)
        return self.choice.wish

    def choose(self, answers: list[Answer], again: AskAgain) -> ChosenToken:
        assert self.choice, "asks() comes first"
        chosen = self.choice.choose(answers, again)
        self.wide = chosen.wide
        return chosen

    def take(self, chosen: ChosenToken, eos: tuple[int, ...], context: int) -> str:
        """The next token, and why it is the last one, if it is."""
        self.first_token_at = self.first_token_at or time.perf_counter()
        finish = self._verdict(chosen.id, eos, context)
        self.history.append(chosen.id)
        if self.grammar:
            self.grammar.accept(chosen.id)
        self.listener(Piece(self.stream.take() if self.stream else "", (chosen,)))
        return finish

    def account(self, accounts: tuple[Account, ...]) -> None:
        """What the ranks spent while it ran, by rank."""
        self.accounts = tuple(map(add, self.accounts, accounts)) if self.accounts else accounts

    def stop(self) -> None:
        """Nothing is computed for it from now on, though it may not have ended."""
        self.stopped_at = time.perf_counter()

    def end(self, finish: str, saved: bool | str | None = None) -> None:
        done = self.stopped_at or time.perf_counter()
        if self.stream:
            self.stream.finish()
            if rest := self.stream.take():
                self.listener(Piece(rest, ()))
        prompt, new = len(self.request.prompt), self.new
        first, began = self.first_token_at or done, self.began_at or done
        stats = Stats(
            prompt_tokens=prompt,
            cached_tokens=self.cached,
            new_tokens=new,
            prefill_tok_s=(prompt - self.cached) / (first - began) if first > began else 0.0,
            decode_tok_s=(new - 1) / (done - first) if new > 1 else 0.0,
            time_to_first_token_s=first - self.asked_at,
            bytes_between_ranks=round(self.bytes_sent),
            peak_rss_bytes=tuple(account.peak_rss for account in self.accounts),
            accounts=self.accounts,
        )
        text = self.stream.whole if self.stream else None
        self.listener(Generation(text, tuple(self.history[prompt:]), finish, stats, self.kept, saved))

    def fail(self, wrong: Exception) -> None:
        """Its listener hears what ended it. Where that fails too, nobody is left to tell."""
        try:
            self.listener(told(wrong))
        except Exception:
            LOG.exception("a listener did not hear the end of its request")

    def _verdict(self, token: int, eos: tuple[int, ...], context: int) -> str:
        """Why this token is the last one, if it is; its text joins the stream."""
        if token in eos and not self.request.ignore_eos:
            return "eos"
        if self.stream:
            self.stream.push(token)
            if self.stream.stopped:
                return "stop"
        if self.new + 1 >= self.request.max_new_tokens:
            return "length"
        return "context" if len(self.history) + 1 >= context else ""
