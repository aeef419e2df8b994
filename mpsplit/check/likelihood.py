"""What logits say of the tokens that may follow.

In: logits [positions, vocabulary]. Out: logarithms of probabilities, in float64.
"""

from __future__ import annotations

import numpy as np

CHUNK = 128  # positions whose logits are in memory at once


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
