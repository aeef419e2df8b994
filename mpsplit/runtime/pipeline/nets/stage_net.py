"""What every net of a stage can do.

In: arrays by the names of the values that a stage takes. Out: those that it gives.

Invariant: a net reads its stage's files and its inputs, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]
Together = Callable[[int, np.ndarray, int], np.ndarray]  # a part's number, what it takes, length -> what it gives


class StageNet(Protocol):
    def run(self, given: Arrays, length: int, together: Together | None = None) -> dict[str, np.ndarray]:
        """The stage's outputs, by the names of their values. `together`: computes a part of the
        stage that others have shards of."""

    def close(self) -> None:
        """Its memory is free."""
