"""What every endpoint needs: the loop, the model's name, the limits, the figures.

Made once, when the server starts.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property

from mpsplit.runtime.choose.lexicon import Lexicon
from mpsplit.runtime.loop.loop_protocol import Ending, Ticket
from mpsplit.runtime.talk.answer_settings import Layer
from mpsplit.runtime.talk.text import Text
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.service.client_texts import ClientTexts
from mpsplit.serve.service.health import Health
from mpsplit.serve.service.metrics import Metrics
from mpsplit.serve.service.served_loop import ServedLoop

MIB = 2**20


@dataclass(frozen=True)
class ServiceLimits:
    """`answers`: of one request, prompts times n; `body_bytes` and `body_seconds`: until a request
    must have arrived."""

    answers: int = 8
    messages: int = 1024
    body_bytes: int = 4 * MIB
    body_seconds: float = 60.0
    head_seconds: float = 20.0
    connections: int = 512


@dataclass(frozen=True)
class Service:
    """`layers` say what calls leave out, the weakest first; `most_tokens` of a prompt and its
    answer, where that is to be less than the model's context; `hosts` by which names browsers may
    call, None for any; after `stale_seconds` a step has taken too long, on a machine where others
    are short."""

    loop: ServedLoop
    model: str
    layers: tuple[Layer, ...] = ()
    most_tokens: int | None = None
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    keys: tuple[bytes, ...] = ()
    share_prefixes: bool = False  # a key finds what others computed, and can tell that they did
    hosts: frozenset[str] | None = None
    stale_seconds: float = 5.0
    created: int = field(default_factory=lambda: int(time.time()))
    ending: threading.Event = field(default_factory=threading.Event)
    tickets: set[Ticket] = field(default_factory=set)  # of answers that are under way

    @property
    def text(self) -> Text:
        if self.loop.text is None:
            raise ApiError(400, "this model has no tokenizer; ask /v1/completions with token ids", "no_tokenizer")
        return self.loop.text

    @property
    def context(self) -> int:
        return min(self.most_tokens or self.loop.facts.context, self.loop.facts.context)

    @cached_property
    def client_texts(self) -> ClientTexts:
        return ClientTexts(self.loop)

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.loop)

    @cached_property
    def lexicon(self) -> Lexicon:
        return Lexicon(self.text.tokenizer.to_str(), self.loop.facts.vocabulary, self.loop.eos)

    @cached_property
    def longest_prompt(self) -> int:
        """Characters: the context full of the longest token."""
        return self.context * max(map(len, self.text.tokenizer.get_vocab()))

    def salt(self, owner: str) -> str:
        """Whose pages an owner finds (pages.py): with several keys those of its own."""
        return owner if len(self.keys) > 1 and not self.share_prefixes else ""

    @property
    def health(self) -> Health:
        loop = self.loop
        return Health(loop.health(), loop.load(), loop.most_waiting, self.ending.is_set(), self.stale_seconds)

    def check_open(self) -> None:
        if self.ending.is_set():
            raise Ending("the server is about to end and takes no new requests; try another, or later")

    def drain(self) -> None:
        self.loop.drain()
        self.ending.set()

    def cancel_all(self) -> None:
        for ticket in list(self.tickets):
            ticket.cancel()
