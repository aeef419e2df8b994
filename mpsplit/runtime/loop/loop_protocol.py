"""What is asked of the token loop, and what it answers.

In: prompts as ids. Out: pieces while it answers, then one Generation.

Whoever asks gives a listener: it hears Pieces, in order, and then exactly once a Generation or an
MpsplitError (faults.py). It is called in the loop's thread and must not wait. If it raises, it
hears an error next, and nothing after that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Protocol

from mpsplit.errors import MpsplitError, RunError
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.choose.choosing import ChosenToken
from mpsplit.runtime.choose.lexicon import Grammar
from mpsplit.runtime.choose.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """`logprobs`: how many likely tokens are told with each one that was chosen, None for no
    probabilities. `grammar` makes the state of a new answer. Waiting requests are taken from the
    `owner`s by turns. A request finds pages of its own `salt` (pages.py). `warm` is a folder of
    kept_texts.py that may spare work. `saves` is one to keep the prompt and the answer in, with
    what `about` says."""

    prompt: tuple[int, ...]
    max_new_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    grammar: Callable[[], Grammar] | None = None
    owner: str = ""
    salt: str = ""
    warm: str = ""
    saves: str = ""
    about: dict = field(default_factory=dict)

    def check(self, facts: ModelFacts, has_text: bool) -> None:
        """Refuses what a model of these facts, with or without a tokenizer, cannot answer."""
        self.sampling.check()
        context, vocabulary = facts.context, facts.vocabulary
        if not self.prompt:
            raise RunError("the prompt is empty; give at least one token")
        if len(self.prompt) >= context:
            raise RunError(
                f"the prompt has {len(self.prompt)} tokens, the context {context}; shorten it to {context - 1} or fewer"
            )
        if wrong := [token for token in self.prompt if not 0 <= token < vocabulary]:
            raise RunError(
                f"token {wrong[0]} is not in the vocabulary of {vocabulary}; ids go from 0 to {vocabulary - 1}"
            )
        if biased := [token for token, _ in self.sampling.logit_bias if not 0 <= token < vocabulary]:
            raise RunError(
                f"logit_bias names token {biased[0]}, which is not in the vocabulary of {vocabulary}; ids go from 0 to"
                f" {vocabulary - 1}"
            )
        if self.max_new_tokens < 1:
            raise RunError(f"--max-new-tokens {self.max_new_tokens} is out of range; it must be at least 1")
        if self.stops and not has_text:
            raise RunError("stop strings need a tokenizer, and this package has none; leave --stop out")


@dataclass(frozen=True)
class Piece:
    """Text that can be shown, and the tokens chosen since the piece before; either may be empty."""

    text: str
    chosen: tuple[ChosenToken, ...]


@dataclass(frozen=True)
class Stats:
    """Seconds as measured on rank 0; bytes handed to the transport for this request, summed over
    the ranks; accounts a rank."""

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    prefill_tok_s: float
    decode_tok_s: float
    time_to_first_token_s: float
    bytes_between_ranks: int
    peak_rss_bytes: tuple[int, ...]
    accounts: tuple[Account, ...]  # of all that ran beside it too

    def to_json(self) -> dict:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"accounts": [account.to_json(rank) for rank, account in enumerate(self.accounts)]}

    def __str__(self) -> str:
        rss = ", ".join(f"{size / 2**20:.0f}" for size in self.peak_rss_bytes)
        return (
            f"prefill {self.prefill_tok_s:.1f} tok/s, decode {self.decode_tok_s:.1f} tok/s, first token after"
            f" {self.time_to_first_token_s * 1000:.0f} ms,"
            f" {self.bytes_between_ranks / max(1, self.new_tokens) / 1024:.1f} KiB a token between ranks, peak MiB a"
            f" rank: {rss}"
        )


@dataclass(frozen=True)
class Generation:
    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: str  # eos, stop, length, context or cancelled
    stats: Stats
    # {"hit": tokens of the prompt that were kept} or {"miss": why none}, where `warm` was asked for
    kept: dict[str, int | str] = field(default_factory=dict)
    saved: bool | str | None = None  # or why it could not be kept; None where nobody asked for it

    @property
    def unsaved(self) -> str:
        return self.saved if isinstance(self.saved, str) else ""

    def to_json(self) -> dict:
        return vars(self) | {"stats": self.stats.to_json()}


Listener = Callable[[Piece | Generation | MpsplitError], None]


class Ticket(Protocol):
    """A request that was taken."""

    def cancel(self) -> None:
        """From any thread: the answer ends at the next token, and its place is free. Its listener
        hears a Generation all the same."""


class Full(RunError):
    """As many requests wait as may."""


class Ending(RunError):
    """No new requests are taken, for the loop is about to end."""


@dataclass(frozen=True)
class LoopLoad:
    """What the loop is doing: requests, and pages of the cache."""

    running: int
    waiting: int
    pages_used: int  # by running requests
    pages_kept: int  # of earlier ones, for whoever begins with the same tokens
    pages: int
    page_tokens: int
