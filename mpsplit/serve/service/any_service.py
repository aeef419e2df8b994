"""What every server has, whatever its model answers: a loop, a name, limits, figures.

Made once, when the server starts.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

from mpsplit.runtime.loop.loop_protocol import Ending, Ticket
from mpsplit.serve.service.health import Health
from mpsplit.serve.service.metrics import Metrics
from mpsplit.serve.service.served_loop import TurningLoop

MIB = 2**20


@dataclass(frozen=True)
class ServiceLimits:
    """`answers`: of one request, prompts times n; `texts`: of one request for embeddings or scores;
    `body_bytes` and `body_seconds`: until a request must have arrived."""

    answers: int = 8
    texts: int = 2048
    messages: int = 1024
    body_bytes: int = 4 * MIB
    body_seconds: float = 60.0
    head_seconds: float = 20.0
    connections: int = 512


@dataclass(frozen=True)
class AnyService(ABC):
    """`hosts` by which names browsers may call, None for any; after `stale_seconds` a step has
    taken too long, on a machine where others are short."""

    loop: TurningLoop
    model: str
    limits: ServiceLimits = field(default_factory=ServiceLimits, kw_only=True)
    keys: tuple[bytes, ...] = field(default=(), kw_only=True)
    hosts: frozenset[str] | None = field(default=None, kw_only=True)
    stale_seconds: float = field(default=5.0, kw_only=True)
    created: int = field(default_factory=lambda: int(time.time()), kw_only=True)
    ending: threading.Event = field(default_factory=threading.Event, kw_only=True)
    tickets: set[Ticket] = field(default_factory=set, kw_only=True)  # of answers that are under way

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens that a request may have, its answer among them."""

    @property
    @abstractmethod
    def task(self) -> str:
        """What it answers: chat, embed or rerank."""

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.loop)

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
