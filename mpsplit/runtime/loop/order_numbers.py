"""The numbers of an order: rank 0 packs them, the others read them.

In: what an engine is to do. Out: int64 for the wire, and the other way round. Invariant: what is
read is what can be packed; anything else raises a Misfit, here and in
extensions/rank/order_numbers.cpp. What earlier orders said is looked at in follow.py.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import (
    BLOCKS,
    BY_MASK,
    BY_TILT,
    CELL,
    CELLS,
    MOST_CELLS,
    NOTHING,
    WIDE,
    Wish,
)
from mpsplit.runtime.engine.engine_protocol import CACHES, IDENTITY, SAVE_NAME, KeptSegment, Span
from mpsplit.runtime.loop.orders import Numbers, Order
from mpsplit.runtime.loop.verbs import Verb

MOST = 2**31 - 1  # of a slot, a position, a token, a page
MOST_START = 2**53  # of `start`, either way: a float64 has it exactly


class Misfit(RunError):
    """Why an order means nothing. The rank adds which order that was."""


def want(good: object, why: str) -> None:
    if not good:
        raise Misfit(why)


def _within(what: str, number: int, most: int = MOST, least: int = 0) -> None:
    want(least <= number <= most, f"{what} {number} is not from {least} to {most}")


def _all_within(what: str, numbers: np.ndarray) -> None:
    for number in (numbers.min(), numbers.max()) if len(numbers) else ():
        _within(what, int(number))


def check_slot(order: Order) -> None:
    _within("slot", order.slot)


# -- steps, and what is asked of them -------------------------------------------------------------


class Question(NamedTuple):
    """A part of a step, and what rank 0 wants to know of the logits after it."""

    part: Span
    wanted: int = NOTHING
    likely: int = -1
    changed: int = 0
    temperature: float = 0.0

    @classmethod
    def of(cls, part: Span, wish: Wish) -> Question:
        """`start` and `count` are of MORE alone."""
        return cls(part, wish.wanted, wish.likely, wish.changed, wish.temperature)

    @property
    def wish(self) -> Wish:
        return Wish(*self[1:])


QUESTION = struct.Struct("=6qd")  # as it lies in the numbers of BATCH


def step_order(tokens: Sequence[int], questions: Sequence[Question]) -> tuple[Order, Numbers]:
    """The shortest order that says it, and its numbers."""
    if len(questions) == 1 and questions[0] == Question(*questions[0][:2], temperature=questions[0].temperature):
        (slot, position, count), wanted, *_, temperature = questions[0]
        return Order(Verb.STEP, slot, position, count, wanted, tokens[0], temperature), tokens
    words = b"".join(QUESTION.pack(*part, *wish) for part, *wish in questions)
    numbers = np.concatenate([np.frombuffer(words, np.int64), np.asarray(tokens, np.int64)])
    return Order(Verb.BATCH, position=len(questions), count=len(numbers)), numbers


def questions_of(order: Order, numbers: np.ndarray) -> tuple[np.ndarray, list[Question]]:
    """The other way round: the tokens and the questions of STEP or BATCH."""
    if order.verb == Verb.STEP:
        part = Span(order.slot, order.position, order.count)
        questions, tokens = [Question(part, order.wanted, temperature=order.temperature)], numbers
    else:
        words = QUESTION.size // 8
        want(1 <= order.position <= len(numbers) // words, f"{len(numbers)} numbers are not {order.position} questions")
        rows = QUESTION.iter_unpack(numbers[: order.position * words].tobytes())
        questions = [Question(Span(*row[:3]), *row[3:]) for row in rows]
        tokens = numbers[order.position * words :]
    for question in questions:
        _check_question(question)
    lengths = sum(question.part.length for question in questions)
    want(lengths == len(tokens), f"{len(tokens)} tokens are not the {lengths} of its parts")
    _all_within("token", tokens)
    return tokens, questions


def _check_question(question: Question) -> None:
    for name, number in zip(Span._fields, question.part, strict=True):
        _within(name, number, least=int(name == "length"))
    check_wish(question.wish)


def check_wish(wish: Wish) -> None:
    _within("wanted", wish.wanted, least=WIDE - MOST_CELLS)
    _within("likely", wish.likely, least=-1)
    _within("changed", wish.changed, BY_TILT | BY_MASK)
    _within("start", wish.start, MOST_START, -MOST_START)
    _within("count", wish.count, MOST_CELLS if wish.wanted == CELLS else MOST)
    want(wish.wanted != WIDE, "it wants no cells")
    warm = wish.wanted in (BLOCKS, CELLS, CELL) or wish.wanted < WIDE
    fine = math.isfinite(wish.temperature) and (wish.temperature > 0 if warm else wish.temperature >= 0)
    want(fine, f"temperature {wish.temperature:f} is none for {wish.wanted}")


# -- what changes the logits ----------------------------------------------------------------------


def check_tilt(order: Order, changes: np.ndarray) -> None:
    """As tilt.py tells them."""
    check_slot(order)
    _within("position", order.position, 1)
    want(len(changes) % 3 == 0, f"{len(changes)} numbers are no three of each token")
    _all_within("token", changes[3::3])
    _all_within("count", changes[4::3])


# -- pages ----------------------------------------------------------------------------------------


def check_pages(pages: np.ndarray) -> None:
    _all_within("page", pages)


def check_place(order: Order, pages: np.ndarray) -> None:
    check_slot(order)
    check_pages(pages)


def stored_of(order: Order) -> str:
    """Of RESERVE: how the cache is stored."""
    _within("count", order.count, 1 << 24, 1)
    _within("token", order.token, len(CACHES) - 1)
    return CACHES[order.token]


# -- what is kept ---------------------------------------------------------------------------------

SEGMENT = struct.Struct(f"=3q{IDENTITY}s")  # as it lies in the numbers of SAVE and LOAD


def kept_order(verb: Verb, slot: int, segment: KeptSegment, folder: str) -> tuple[Order, np.ndarray]:
    """SAVE or LOAD, and its numbers."""
    assert len(segment.identity) == IDENTITY
    numbers = _padded(SEGMENT.pack(*segment[:3], segment.identity.encode()) + folder.encode())
    return Order(verb, slot, count=len(numbers)), numbers


def kept_of(order: Order, numbers: np.ndarray) -> tuple[KeptSegment, str]:
    """The other way round."""
    check_slot(order)
    want(numbers.nbytes > SEGMENT.size, f"{len(numbers)} numbers are no segment and its folder")
    first, last, until, identity = SEGMENT.unpack(numbers.tobytes()[: SEGMENT.size])
    _within("first", first)
    _within("last", last, least=first + 1)
    _within("until", until, last, first + 1)
    want(re.fullmatch(rb"[!-~]*", identity), "its identity is no plain text")
    segment = KeptSegment(first, last, until, identity.decode())
    _check_save(segment.save)
    return segment, _folder(numbers, SEGMENT.size)


def sweep_order(folder: str, saves: Sequence[str]) -> tuple[Order, np.ndarray]:
    """SWEEP, and its numbers."""
    assert all(len(save) == SAVE_NAME for save in saves)
    numbers = _padded("".join((*saves, folder)).encode())
    return Order(Verb.SWEEP, position=len(saves), count=len(numbers)), numbers


def swept_of(order: Order, numbers: np.ndarray) -> tuple[str, list[str]]:
    """The other way round."""
    most = (numbers.nbytes - 1) // SAVE_NAME
    want(0 <= order.position <= most, f"{len(numbers)} numbers are not {order.position} saves and a folder")
    data, names = numbers.tobytes(), order.position * SAVE_NAME
    saves = [data[at : at + SAVE_NAME].decode("ascii", "replace") for at in range(0, names, SAVE_NAME)]
    for save in saves:
        _check_save(save)
    return _folder(numbers, names), saves


def _check_save(name: str) -> None:
    want(re.fullmatch(f"[0-9a-f]{{{SAVE_NAME}}}", name), "a save has no name of letters and digits")


def _padded(text: bytes) -> np.ndarray:
    """Two numbers at least: so many come in a message of their own, whatever the text."""
    text += b"\0"
    return np.frombuffer(bytearray(text + bytes(max(16 - len(text), -len(text) % 8))), np.int64)


def _folder(numbers: np.ndarray, begin: int) -> str:
    """From a byte on, up to the padding: a folder that stays inside the package."""
    name = numbers.tobytes()[begin:].partition(b"\0")[0]
    want(not {b"", b".", b".."} & {*name.split(b"/")}, "its folder leaves the package")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise Misfit("its folder is no text") from None
