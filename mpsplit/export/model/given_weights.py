"""Weights that are numpy arrays, in the place of a checkpoint.

In: arrays by their Hugging Face names. Out: a Source, whose numbers are float32, and its Origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from mpsplit.export.model.model_origin import File, Origin
from mpsplit.plan.cuts import Part, source_of
from mpsplit.plan.model_facts import ModelFacts


class GivenWeights:
    TYPE = "F32"

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays, self.bytes_read = arrays, 0

    @cached_property
    def origin(self) -> Origin:
        """Each array is a file whose content tells it."""
        hashes = {
            name: hashlib.sha256(np.ascontiguousarray(array, np.float32).data) for name, array in self.arrays.items()
        }
        return Origin(Path(), tuple(File(name, 0, 0, digest.hexdigest()) for name, digest in hashes.items()))

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        return source_of(weight, facts)

    def type_of(self, name: str) -> str:
        return self.TYPE

    def file_of(self, name: str) -> str:
        return name

    def stored(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        array = self.arrays[name]
        taken = (slice(None) if r is None else slice(r.start, r.stop) for r in map(part.along, range(array.ndim)))
        rows = np.ascontiguousarray(array[tuple(taken)][start:stop], np.float32)
        self.bytes_read += rows.nbytes
        return rows

    def close(self) -> None: ...
