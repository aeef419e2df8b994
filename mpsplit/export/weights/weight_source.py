"""What a conversion reads: a checkpoint, or a package that another plan made of it (repacked.py).

In: the name of a tensor and a part of it. Out: its rows as they are stored there.

Invariant: reading is all that differs. What is hashed, written, resumed and put in place is the
same for both.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mpsplit.plan.cuts import Part
from mpsplit.plan.model_facts import ModelFacts


class Source(Protocol):
    @property
    def bytes_read(self) -> int: ...

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        """The name that it has a weight under."""

    def type_of(self, name: str) -> str:
        """Of what `stored` gives: as safetensors spells it, or the manifest's of an embedding, or
        the kind of a packed matrix."""

    def file_of(self, name: str) -> str:
        """Which of its Origin's files decides what is in the tensor."""

    def stored(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        """Rows start..stop of a part; of packed ones `start` is the first of a panel."""

    def close(self) -> None: ...
