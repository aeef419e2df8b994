"""The types of tensors that GGUF files have: how many weights a block holds, and in how many bytes.

In: a number of the file. Out: a GgufType, and the float32 of its blocks.

What a block's bytes mean is gguf-py's to say, which llama.cpp's people keep; nothing of it is
repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpsplit.errors import ModelError


@dataclass(frozen=True)
class GgufType:
    """`number` in the file; `weights` along a row that make one block of `bytes`."""

    name: str
    number: int
    weights: int
    bytes: int

    def bytes_of(self, count: int) -> int:
        """Of so many weights, which are whole blocks."""
        return count // self.weights * self.bytes


TYPES = {
    kind.number: kind
    for kind in (
        GgufType("F32", 0, 1, 4),
        GgufType("F16", 1, 1, 2),
        GgufType("Q4_0", 2, 32, 18),
        GgufType("Q4_1", 3, 32, 20),
        GgufType("Q5_0", 6, 32, 22),
        GgufType("Q5_1", 7, 32, 24),
        GgufType("Q8_0", 8, 32, 34),
        GgufType("Q2_K", 10, 256, 84),
        GgufType("Q3_K", 11, 256, 110),
        GgufType("Q4_K", 12, 256, 144),
        GgufType("Q5_K", 13, 256, 176),
        GgufType("Q6_K", 14, 256, 210),
        GgufType("IQ4_NL", 20, 32, 18),
        GgufType("IQ4_XS", 23, 256, 136),
        GgufType("BF16", 30, 1, 2),
    )
}


def type_of(number: int, tensor: str) -> GgufType:
    if number not in TYPES:
        raise ModelError(
            f"{tensor!a} has type {number}, which is unknown here; known are"
            f" {', '.join(f'{kind.name} ({kind.number})' for kind in TYPES.values())}"
        )
    return TYPES[number]


def floats(rows: np.ndarray, kind: GgufType) -> np.ndarray:
    """float32 of rows of blocks, uint8 [rows, bytes]."""
    if kind.name == "F32":
        return rows.view("<f4")
    if not rows.size:
        return np.empty((len(rows), rows.shape[1] // kind.bytes * kind.weights), np.float32)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return dequantize(rows, GGMLQuantizationType[kind.name])
