"""What the token loop asks of an engine.

In: tokens of several requests. Out: this rank's slice of their logits.

A request has a slot, and in it a table: the pages of the cache in which its tokens lie, in their
order (pages.py). Every rank of a package calls the same methods with the same arguments in the same
order: the collectives inside must meet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest
from mpsplit.plan.shards import Range
from mpsplit.runtime.engine.layer_kinds import KINDS
from mpsplit.runtime.engine.pages import pages_of

CACHES = ("f32", "bf16", "q8")  # how keys and values may be stored
Numbers = Sequence[int] | np.ndarray  # tokens, or pages
UNTOLD = np.zeros(len(KINDS), np.int64)  # `spent` of an engine that cannot see into its layers
# ns of work of several threads: all together, of it one waiting for another, and by one thread
# while something else used the cores of the others (extensions/kernels/thread_pool.h)
SHARED_WORK = ("work_shared", "work_waited", "work_alone")
UNSHARED = np.zeros(len(SHARED_WORK), np.int64)


class Span(NamedTuple):
    """`length` tokens of a step that follow the `position` tokens of a slot."""

    slot: int
    position: int
    length: int


IDENTITY, SAVE_NAME = 160, 32  # letters; the name of a save is the end of an identity


class KeptSegment(NamedTuple):
    """Tokens `first` to before `last` of a text, in a file of each rank; what comes of it is wanted
    up to `until`. `identity`: kept_texts.py."""

    first: int
    last: int
    until: int
    identity: str

    @property
    def save(self) -> str:
        """The name of the save that wrote it."""
        return self.identity[-SAVE_NAME:]


def each_span(tokens: Numbers, spans: Sequence[Span]) -> Iterator[tuple[Numbers, Span]]:
    """The tokens of each span."""
    at = 0
    for span in spans:
        yield tokens[at : at + span.length], span
        at += span.length


class Engine(Protocol):
    name: str
    manifest: Manifest
    vocabulary: Range  # rows of the head that this rank owns, empty outside the last stage
    keeps: bool  # whether it can save what its cache holds, and load it

    @property
    def bytes_sent(self) -> int:
        """What this rank handed to the transport so far, over all its groups."""

    @property
    def seconds(self) -> float:
        """What this rank spent inside collectives so far, over all its groups, waiting for peers
        included."""

    @property
    def spent(self) -> np.ndarray:
        """int64: nanoseconds so far by kind of layer (layer_kinds.py); zeros where the engine
        cannot tell."""

    @property
    def shared_work(self) -> np.ndarray:
        """int64, as SHARED_WORK names it: so far; zeros where the engine cannot tell."""

    def reserve(self, pages: int, stored: str) -> None:
        """A cache of so many pages, stored as one of CACHES says; what was in it is gone, and no
        slot has pages."""

    def place(self, slot: int, first: int, pages: Numbers) -> None:
        """From the `first`-th on, the pages of a slot are these."""

    def forget(self, pages: Numbers) -> None:
        """What these pages hold is of no use any more; their memory goes back to the system."""

    def batch(self, tokens: Numbers, spans: Sequence[Span]) -> np.ndarray:
        """The spans' tokens, one span after another: float32 [spans, rows of the head], after the
        last token of each; no columns where there is no head."""

    def step(self, tokens: Numbers, position: int, every_row: bool = False) -> np.ndarray:
        """Without a loop, slot 0 alone, which takes all pages at position 0; a row for every token,
        where asked for."""

    def save(self, slot: int, segment: KeptSegment, folder: str) -> None:
        """A segment of a slot begins to go to a new file of this rank in a folder of the package,
        beside the steps. Nobody changes its pages until `saved` says that they were read."""

    def saved(self) -> tuple[int, int]:
        """How that went, or goes, and a detail (outcomes.py)."""

    def load(self, slot: int, segment: KeptSegment, folder: str) -> int:
        """And from there, into the pages of the slot; how it went."""

    def sweep(self, folder: str, saves: Sequence[str]) -> None:
        """Of this rank's files in a folder, those of these saves stay, and the others go; also
        beside the steps."""

    def close(self) -> None: ...


class Refused(RunError):
    """An engine was asked for what it cannot do."""


class KeepsNothing:
    """Of an engine that cannot save its cache, and whose pages are no memory of their own."""

    keeps = False

    def forget(self, pages: Numbers) -> None: ...

    def save(self, slot: int, segment: KeptSegment, folder: str) -> None:
        raise Refused("this engine keeps nothing")

    def load(self, slot: int, segment: KeptSegment, folder: str) -> int:
        raise Refused("this engine keeps nothing")

    def saved(self) -> tuple[int, int]:
        raise Refused("this engine keeps nothing")

    def sweep(self, folder: str, saves: Sequence[str]) -> None:
        raise Refused("this engine keeps nothing")


class EngineSteps(KeepsNothing, ABC):
    """`step` of an engine whose `batch` can give every row; it tells nothing of its layers."""

    manifest: Manifest

    @abstractmethod
    def place(self, slot: int, first: int, pages: Numbers) -> None: ...

    @abstractmethod
    def batch(self, tokens: Numbers, spans: Sequence[Span], every_row: bool = False) -> np.ndarray: ...

    @property
    def spent(self) -> np.ndarray:
        return UNTOLD

    @property
    def shared_work(self) -> np.ndarray:
        return UNSHARED

    def step(self, tokens: Numbers, position: int, every_row: bool = False) -> np.ndarray:
        if position == 0:  # pages for all of the context, whatever was in them
            self.place(0, 0, range(pages_of(self.manifest.facts.context)))
        return self.batch(tokens, [Span(0, position, len(tokens))], every_row)
