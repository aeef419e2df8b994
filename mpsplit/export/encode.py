"""Rows of a weight as they are stored, by every method. In: float32 rows and a Quantisation. Out: bytes of quantised.bin.

Invariant: rows are independent, and panels of 16 follow each other: what comes of pieces of 16 m rows (the last may be shorter), one after
the other, is what comes of all at once.
"""

from __future__ import annotations

import numpy as np

from mpsplit.export.gptq import gptq
from mpsplit.native import kernels
from mpsplit.package.quantisation import BFLOAT, Quantisation


def encoded(rows: np.ndarray, how: Quantisation, scales: str = "minmax", u: np.ndarray | None = None) -> np.ndarray:
    """uint8; with `u`, the factor of the inputs' second moments (gptq.factor), by GPTQ. bfloat16 is rounded, whatever the method."""
    rows = np.ascontiguousarray(rows, np.float32)
    if u is None or how.bits == BFLOAT:
        return kernels().pack(rows, how.bits, how.block, scales=scales)
    values, steps = gptq(rows, u, how, scales)
    return kernels().pack_values(values, steps, how.bits, how.block)
