"""What the ranks answered, as rank 0 reads it.

In: their messages (answers.py). Out: one list of candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpsplit.plan.shards import Range
from mpsplit.runtime.choose.answers import ALL, BLOCK, BLOCKS, CELLS, SPAN, WIDE, Wish


def length(wish: Wish, rows: int, count: int = 0) -> int:
    """Of the message of a rank with so many rows; of CELL and SPAN for `count` logits."""
    told = likely_of(wish, rows)
    beside = 0 if wish.likely < 0 else 1 + 2 * told
    if wish.wanted > 0:
        return 1 + min(wish.wanted, rows) * (2 if wish.likely < 0 else 3) + beside
    if wish.wanted == BLOCKS:
        return 1 + -(-rows // BLOCK) + beside
    if wish.wanted < WIDE:
        return 2 + 2 * (WIDE - wish.wanted) + beside
    if wish.wanted == CELLS:
        return 2 * count
    if wish.wanted == ALL:
        return rows
    return count * ((1 if wish.wanted == SPAN else 2) + (wish.likely >= 0))


def likely_of(wish: Wish, rows: int) -> int:
    return max(0, min(wish.likely, rows))


@dataclass(frozen=True)
class Answer:
    """Of one rank with these rows of the head: the message, or with ALL the slice, float32.
    `drawn`: it is the only one and has drawn."""

    rows: Range
    wish: Wish
    message: np.ndarray
    drawn: bool = False

    @property
    def head(self) -> float:
        """`rest`, or of BLOCKS `top`."""
        return float(self.message[0])

    @property
    def complete(self) -> bool:
        return self.wish.wanted >= len(self.rows)

    def column(self, number: int) -> np.ndarray:
        """0: logits, 1: their ids, 2: the model's own."""
        count = min(self.wish.wanted, len(self.rows))
        return self.message[1 + number * count : 1 + (number + 1) * count]

    @property
    def sums(self) -> np.ndarray:
        return self.message[1 : 1 + -(-len(self.rows) // BLOCK)]

    @property
    def own(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Of the model's own distribution: the log of the sum, the likeliest logits, their ids."""
        count = likely_of(self.wish, len(self.rows))
        tail = self.message[len(self.message) - 1 - 2 * count :]
        return float(tail[0]), tail[1 : 1 + count], tail[1 + count :]


def whole(answers: Sequence[Answer]) -> np.ndarray:
    """Of slices: all logits in the order of ids, float64."""
    assert all(answer.wish.wanted == ALL for answer in answers)
    ordered = sorted(answers, key=lambda answer: answer.rows.start)
    return np.concatenate([answer.message for answer in ordered]).astype(np.float64)


def likely_tokens(answers: Sequence[Answer], count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Of the model's own distribution: the log of the sum, the likeliest and the logs of their
    probabilities."""
    if len(answers) == 1:
        total, logit, token = answers[0].own
    else:
        sums, logits, ids = zip(*(answer.own for answer in answers), strict=True)
        total, logit, token = float(np.logaddexp.reduce(sums)), np.concatenate(logits), np.concatenate(ids)
        order = np.lexsort((token, -logit))[:count]
        logit, token = logit[order], token[order]
    return total, tuple(zip(token.astype(np.int64).tolist(), (logit - total).tolist(), strict=True))
