"""What a stage makes of the length alone: masks, positions, rows of a table.

In: a MadeValue, the length, its table. Out: an array. Pure numpy.
"""

from __future__ import annotations

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import CAUSAL, POSITIONS, MadeValue

HIDDEN = np.float32(-1e9)  # is added to the scores of what is not seen: e^x is 0 below it


def made(value: MadeValue, length: int, table: np.ndarray | None) -> np.ndarray:
    shape = numbers(value.shape, length)
    if value.kind == CAUSAL:
        return np.triu(np.full(shape, HIDDEN), 1)
    if value.kind == POSITIONS and value.axis < len(shape):
        along = [-1 if axis == value.axis else 1 for axis in range(len(shape))]
        counted = np.arange(value.offset, value.offset + shape[value.axis]).reshape(along)
        return np.broadcast_to(counted, shape).astype(value.type)
    if table is None or table.ndim != len(shape) or any(a < b for a, b in zip(table.shape, shape, strict=True)):
        raise PackageError(f"{value.name} is the beginning of a table that the stage does not have; convert again")
    return table[tuple(map(slice, shape))].astype(value.type)
