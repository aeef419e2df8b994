"""Rows of the embedding in 8 bits.

In: float32 rows. Out: bytes of their file, and back. extensions/engine/embedding.h reads the same.

A row is int8 [width], then float16 [width / block], a scale for every block. Invariant: a row
depends on itself alone, so a table may be stored and read in any pieces.
"""

from __future__ import annotations

import numpy as np

FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes
# the manifest's dtype where the embedding has no file: a tied head's matrix is the embedding too
HEAD_ROWS = "HEAD"
BITS = 8
PREFIX, LARGEST, HALF = "Q8-", 127, np.finfo(np.float16)


def dtype_of(block: int) -> str:
    """The name of the type in the manifest, beside F32, F16 and BF16."""
    return f"{PREFIX}{block}"


def block_of(dtype: str) -> int | None:
    """None for a type that is not ours."""
    return int(dtype.removeprefix(PREFIX)) if dtype in map(dtype_of, (32, 64, 128)) else None


def row_bytes(width: int, block: int) -> int:
    return width + 2 * (width // block)


def stored_row(dtype: str, width: int) -> int:
    """Bytes of a row of `width` numbers as stored; of HEAD_ROWS the head has them."""
    if dtype == HEAD_ROWS:
        return 0
    block = block_of(dtype)
    return row_bytes(width, block) if block else width * FLOATS[dtype]


def stored(rows: np.ndarray, block: int) -> np.ndarray:
    """float32 [n, width] -> uint8 [n, row_bytes]"""
    blocks = rows.reshape(len(rows), -1, block)
    scales = np.minimum(np.abs(blocks).max(-1) / np.float32(LARGEST), np.float32(HALF.max)).astype(np.float16)
    steps = scales.astype(np.float32)[..., None]  # the integers fit the scales that are stored
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(steps > 0, np.clip(np.rint(blocks / steps), -LARGEST, LARGEST), 0).astype(np.int8)
    return joined(values.reshape(len(rows), -1), scales)


def joined(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """int8 [n, width] and float16 [n, width / block] -> uint8 [n, row_bytes]"""
    return np.concatenate([values.view(np.uint8), scales.view(np.uint8)], axis=1)


def floats(rows: np.ndarray, width: int, block: int) -> np.ndarray:
    """uint8 [n, row_bytes] -> float32 [n, width]"""
    values = np.ascontiguousarray(rows[:, :width]).view(np.int8).reshape(len(rows), -1, block)
    scales = np.ascontiguousarray(rows[:, width:]).view(np.float16).astype(np.float32)
    return (values * scales[..., None]).reshape(len(rows), width)
