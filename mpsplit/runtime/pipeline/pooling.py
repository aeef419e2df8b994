"""One vector for a text, of the hidden states of its tokens.

In: states, SentenceSettings. Out: the embedding. Pure numpy.

Invariant: a text comes alone, without padding, so that all its states count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpsplit.package.stages.sentence_settings import SentenceSettings

SMALLEST = 1e-12  # length that a vector is divided by
PLAIN = SentenceSettings(("mean",), normalise=True)  # where the model says nothing


def _weighted(states: np.ndarray) -> np.ndarray:
    places = np.arange(1, len(states) + 1, dtype=np.float32)
    return places @ states / places.sum()


POOLINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cls": lambda states: states[0],
    "max": lambda states: states.max(axis=0),
    "mean": lambda states: states.mean(axis=0),
    "mean_sqrt_len_tokens": lambda states: states.sum(axis=0) / np.float32(len(states) ** 0.5),
    "weightedmean": _weighted,
    "lasttoken": lambda states: states[-1],
}


def embedding(states: np.ndarray, settings: SentenceSettings | None) -> np.ndarray:
    """[length, hidden] -> [hidden, or as often as poolings are joined]"""
    settings = settings or PLAIN
    joined = np.concatenate([POOLINGS[name](states) for name in settings.pooling])
    return unit(joined) if settings.normalise else joined


def unit(vector: np.ndarray) -> np.ndarray:
    """Of length 1."""
    return vector / max(float(np.linalg.norm(vector)), SMALLEST)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """[texts, size] -> [texts, texts]"""
    units = np.stack([unit(vector) for vector in vectors.astype(np.float64)])
    return units @ units.T
