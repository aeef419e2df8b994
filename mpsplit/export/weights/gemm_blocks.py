"""A matrix as ncnn's block-quantised Gemm reads it.

In: its rows, piece by piece. Out: bytes of the file of floats: all its integers, and after its bias
all its scales. A row of integers is one string of bits, the first weight in the lowest, each in
two's complement. A scale is what ncnn divides by, in float32: 1 over ours.

Invariant: a piece is read and rounded once. Its scales wait until they are written, as the 16-bit
numbers that they are. After an interruption between the two they are made again, and are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpsplit.export.weights.encode import WeightEncoder

TOGETHER = 4  # weights that fill bits / 2 bytes


class GemmBlocks:
    """Of one matrix."""

    def __init__(self, encoder: WeightEncoder):
        self.encoder = encoder
        self.waiting: dict[int, np.ndarray] = {}  # first row of a piece -> its scales

    def integers(self, read: Callable[[], np.ndarray], first: int) -> np.ndarray:
        """`read` gives the rows from `first` on."""
        values, scales = self.encoder.integers(read(), first)
        self.waiting[first] = scales.astype(np.float16)
        return bit_strings(values, self.encoder.how.bits)

    def scales(self, read: Callable[[], np.ndarray], first: int) -> np.ndarray:
        if first not in self.waiting:
            self.integers(read, first)
        return divisors(self.waiting.pop(first).astype(np.float32))


def bit_strings(values: np.ndarray, bits: int) -> np.ndarray:
    """int8 [n, k] -> uint8 [n, k * bits / 8]"""
    n, k = values.shape
    fours = (values.view(np.uint8) & (2**bits - 1)).reshape(-1, TOGETHER).astype("<u4")
    words = fours[:, 0] | fours[:, 1] << bits | fours[:, 2] << 2 * bits | fours[:, 3] << 3 * bits
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, TOGETHER)[:, : bits // 2]).reshape(n, k * bits // 8)


def divisors(scales: np.ndarray) -> np.ndarray:
    """Of a block that is 0 throughout: 1, for ncnn multiplies with 1 over it."""
    return np.divide(1, scales, out=np.ones_like(scales), where=scales != 0)
