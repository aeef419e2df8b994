"""What the token loop asks of an engine. In: tokens and a position. Out: this rank's slice of the logits.

Every rank of a package calls the same methods with the same arguments in the same order: the collectives inside must meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mpsplit.package.manifest import Manifest
from mpsplit.plan.shards import Range


class Engine(Protocol):
    name: str
    manifest: Manifest
    vocabulary: Range  # rows of the head that this rank owns, empty outside the last stage

    @property
    def position(self) -> int:
        """How many tokens the KV cache holds."""

    @property
    def bytes_sent(self) -> int:
        """What this rank handed to the transport so far, over all its groups."""

    @property
    def seconds(self) -> float:
        """What this rank spent inside collectives so far, over all its groups, waiting for peers included."""

    def step(self, tokens: Sequence[int], position: int, every_row: bool = False) -> np.ndarray:
        """Appends the tokens at `position`, which is the cache's length, or 0 to start anew.

        Returns float32 [1, rows of the head] for the last token, or one row a token; no columns where there is no head.
        """

    def close(self) -> None: ...
