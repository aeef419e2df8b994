"""The verbs of the orders: their numbers on the wire, what each means, and what comes with it.

In: nothing. Out: `Verb`, for Python; orders_header.py writes the same table for C++. Invariant: a
number keeps its meaning as long as orders.VERSION stays.
"""

from __future__ import annotations

from enum import IntEnum


class Verb(IntEnum):
    """Each row: number, meaning, whether it brings numbers, whether ranks rest after it."""

    meaning: str  # with the fields of `Order` in ``
    numbered: bool  # `count` numbers come: `token`, or for more than one int64 [count] in a broadcast
    resting: bool  # the next order may take as long as it likes

    def __new__(cls, number: int, meaning: str, numbered: bool = False, resting: bool = False) -> Verb:
        self = int.__new__(cls, number)
        self._value_ = number
        self.meaning, self.numbered, self.resting = meaning, numbered, resting
        return self

    STEP = (
        0,
        "Append `count` tokens at `position` of `slot`. Then answer, where this rank has rows of the head and"
        " something is `wanted`.",
        True,
    )
    BATCH = (
        1,
        "Append tokens to `position` slots at once. The numbers are a `Question` for each slot, then all tokens."
        " Then answer for each, in order.",
        True,
    )
    MORE = (
        2,
        "Answer again, from the logits of the last step after the tokens of its `position`-th slot: what is"
        " `wanted` now, from `token` on, `count` of it (answers.py).",
    )
    PLACE = 3, "From the `position`-th on, the pages of `slot` are these numbers.", True
    RESERVE = 4, "A cache of `count` pages, stored as CACHES[`token`] (engine_protocol.py).", False, True
    SAVE = (
        5,
        "A segment of `slot` begins to go to a new file of this rank, beside the steps. The numbers are a `KeptSegment`"
        " and a folder of the package, padded with 0.",
        True,
        True,
    )
    LOAD = (
        6,
        "A segment comes from its file into the pages of `slot`; the numbers are those of SAVE. All ranks gather"
        " int64 [1], how it went (outcomes.py).",
        True,
        True,
    )
    REPORT = 7, "All ranks gather int64: the account of what ran since the last one (account.py).", False, True
    END = 8, "Leave."
    SAVED = 9, "All ranks gather int64 [2]: how the last SAVE went, or goes, and a detail (outcomes.py).", False, True
    SWEEP = (
        10,
        "Of this rank's files in a folder, those of `position` saves stay, and the others go, beside the steps. The"
        " numbers are the saves' names, 32 bytes each, and the folder, padded with 0.",
        True,
        True,
    )
    TILT = (
        11,
        "What the request in `slot` does to logits by token: what is new (tilt.py), or with `position` 1 all of it.",
        True,
    )
    MASK = 12, "The tokens that the request in `slot` may say next: a bit each.", True
    FORGET = 13, "What these pages hold is of no use any more; their memory goes back to the system.", True, True
