"""What a graph is told about positions.

In: a Rope, a range of positions. Out: cos, sin and the attention mask, in numpy.
"""

from __future__ import annotations

import numpy as np

from mpsplit.package.manifest import Rope

# added to a score: exp of it is 0, and it is finite, so no row becomes 0/0
HIDDEN_FROM_SIGHT = np.float32(-1e9)


def rope_tables(rope: Rope, context: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin for every position: float32 [context, head_dim]; both halves of a row are the
    same angles."""
    angles = np.arange(context, dtype=np.float32)[:, None] * np.array(rope.inverse_frequencies, np.float32)
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles) * np.float32(rope.scaling), np.sin(angles) * np.float32(rope.scaling)


def causal_mask(start: int, count: int, window: int) -> np.ndarray:
    """float32 [count, start + count], added to the scores: a token sees itself and what came
    before, `window` of it if not 0."""
    query = np.arange(start, start + count)[:, None]
    key = np.arange(start + count)[None, :]
    hidden = key > query
    if window:
        hidden |= key <= query - window
    return np.where(hidden, HIDDEN_FROM_SIGHT, np.float32(0))
