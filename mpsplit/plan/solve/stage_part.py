"""One part of a stage that its ranks divide: query heads, MLP columns or rows of the head.

In: tables. Out: what so many steps cost. Invariant: more steps never cost less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StagePart:
    """`seconds[i][k]` is what k steps take member i of `members`.

    `once[k]`, and `per_layer[k]` for a layer, is what they add to its memory. No member takes fewer
    than `least`.
    """

    name: str
    members: tuple[int, ...]
    count: int
    least: int
    seconds: tuple[Floats, ...]
    once: Ints
    per_layer: Ints

    def bytes(self, layers: int) -> Ints:
        total: Ints = self.once + layers * self.per_layer
        return total
