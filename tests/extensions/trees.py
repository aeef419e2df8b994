"""The sums that extensions/comm promises, to the bit: its tree, in numpy.

Parts in the order of the ranks.
"""

from __future__ import annotations

import math

import numpy as np


def add_f16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(np.float32) + b.astype(np.float32)).astype(np.float16)


def add_i8(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.clip(a.astype(np.int32) + b, -128, 127).astype(np.int8)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the 16 bits of the nearest bfloat16, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)


def add_bf16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return to_bf16(from_bf16(a) + from_bf16(b))


def tree_sum(parts: list[np.ndarray], add=np.add) -> np.ndarray:
    """Position r beyond the last power of two is folded into r - p; then positions p/2, p/4, ... 1
    apart are added."""
    ranks = 2 ** int(math.log2(len(parts)))
    sums = [add(parts[r], parts[r + ranks]) if r + ranks < len(parts) else parts[r] for r in range(ranks)]
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [add(sums[r], sums[r + half]) for r in range(half)]
    return sums[0]
