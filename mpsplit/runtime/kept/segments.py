"""Segments: what is kept of a text, in the order in which it was saved.

In: the tokens of a text as it grows. Out: which segments of before stay, and where a new one
begins. Pure functions.

Whole pages never change, so a text that goes on gets a segment more, from its last partial page on.
A text that leaves the kept one somewhere does so too, from that page on. A segment is good up to
where the next one begins.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mpsplit.runtime.engine.engine_protocol import SAVE_NAME, KeptSegment
from mpsplit.runtime.engine.pages import PAGE

MOST = 16  # of one text; then it is written anew, as one


@dataclass(frozen=True)
class Segment:
    """Tokens `first` to before `last`. `tokens_sha256` is of all tokens of its text from the start
    to there; `bytes` are those of its files on all ranks."""

    save: str
    first: int
    last: int
    tokens_sha256: str
    bytes: int = 0

    def to_json(self) -> dict:
        return asdict(self)

    def kept(self, whose: str, until: int) -> KeptSegment:
        """As the ranks know it; its identity is whose it is, its tokens and its save."""
        return KeptSegment(self.first, self.last, until, whose + self.tokens_sha256 + self.save)


def tokens_sha256(tokens: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(tokens, "<i8").tobytes()).hexdigest()


def check(segments: Sequence[Segment], tokens: Sequence[int]) -> None:
    """Raises a ValueError where these are no segments of such a text."""
    if not segments:
        return
    numbers = [number for each in segments for number in (each.first, each.last, each.bytes)]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("a segment has no whole numbers")
    ends = [*(segment.first for segment in segments[1:]), len(tokens)]
    for number, (segment, end) in enumerate(zip(segments, ends, strict=True)):
        if segment.first % PAGE or not segment.first < end <= segment.last:
            raise ValueError(f"segment {number} is none")
        letters = (segment.save, SAVE_NAME), (segment.tokens_sha256, 64)
        if not all(re.fullmatch(f"[0-9a-f]{{{count}}}", text) for text, count in letters):
            raise ValueError(f"segment {number} has no name")
    if segments[0].first or segments[-1].last != len(tokens):
        raise ValueError("the segments are not those of the tokens")
    if segments[-1].tokens_sha256 != tokens_sha256(tokens):
        raise ValueError("the tokens are not those that were written")


def wanted(segments: Sequence[Segment], whose: str, tokens: int) -> list[KeptSegment]:
    """Those that hold something of so many tokens, in the order in which they are loaded."""
    ends = [*(segment.first for segment in segments[1:]), *(segment.last for segment in segments[-1:])]
    pairs = zip(segments, ends, strict=True)
    return [segment.kept(whose, end) for segment, end in pairs if segment.first < tokens]


def staying(segments: Sequence[Segment], same: int, tokens: int) -> tuple[tuple[Segment, ...], int]:
    """Of a text whose first `same` tokens are those of before: the segments that stay, and where
    the new one begins, up to `tokens`."""
    first = min(same, tokens - 1) // PAGE * PAGE
    stay = tuple(segment for segment in segments if segment.first < first)
    return (stay, first) if stay and len(stay) < MOST else ((), 0)
