"""How it went to save or to load on a rank.

In: numbers, as extensions/engine/cache_file.h counts them. Out: words for people.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import IntEnum


class Outcome(IntEnum):
    DONE = 0
    MISSING = 1
    OTHER = 2
    DAMAGED = 3
    UNWRITABLE = 4
    SYNCING = 5  # the pages are read, and may change; the disk has not told yet that it has them
    WRITING = 6


UNDER_WAY = (Outcome.SYNCING, Outcome.WRITING)
WORDS = {
    Outcome.MISSING: "has no such file",
    Outcome.OTHER: "has a file of another save",
    Outcome.DAMAGED: "finds its file damaged",
    Outcome.UNWRITABLE: "cannot write its file",
}


def first_failure(outcomes: Sequence[int], errors: Sequence[int] = ()) -> str:
    """The first rank where it did not go well, and what it says; empty where all went well.
    `errors`: an errno of each."""
    for rank, outcome in enumerate(outcomes):
        if outcome:
            why = f" ({os.strerror(errors[rank])})" if errors and outcome == Outcome.UNWRITABLE else ""
            return f"rank {rank} {WORDS[Outcome(outcome)]}{why}"
    return ""
