"""One part of a stage that its ranks divide: query heads, MLP columns or rows of the head.

In: tables. Out: what so many steps cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StagePart:
    """`seconds[i][k]` is what k steps take member i of `members`; `once[k]`, and `each[k]` a layer,
    what they add to its memory. No member takes fewer than `least`."""

    name: str
    members: tuple[int, ...]
    count: int
    least: int
    seconds: tuple[np.ndarray, ...]
    once: np.ndarray
    each: np.ndarray

    def bytes(self, layers: int) -> np.ndarray:
        return self.once + layers * self.each
