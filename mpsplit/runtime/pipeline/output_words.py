"""Outputs for people: the best labels of an image or a text, or a text's embedding.

In: the model's outputs, the pipeline. Out: plain data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpsplit.package.stages.pipeline import Pipeline

LOGITS, STATES = "logits", "last_hidden_state"


def answer(outputs: dict[str, np.ndarray], pipeline: Pipeline, top: int) -> dict[str, Any]:
    """Labels with their shares of 1 where there are logits of classes, or the tokens that may come
    `next`; the mean of the last hidden states, of length 1, as `embedding`; else how each output
    looks."""
    logits = outputs.get(LOGITS)
    if logits is not None and logits.ndim == 3:
        return {"next": best(logits[0, -1], (), top, "token")}
    if logits is not None and logits.ndim == 2:
        return {"labels": best(logits[0], pipeline.labels, top)}
    if (states := outputs.get(STATES)) is not None and states.ndim == 3:
        return {"embedding": embedding(states[0]).tolist()}
    return {"outputs": {name: _summary(array) for name, array in outputs.items()}}


def best(logits: np.ndarray, labels: tuple[str, ...], top: int, kind: str = "class") -> list[dict[str, Any]]:
    """`kind`: of what has no name but a number."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    named = labels if len(labels) == len(logits) else [f"{kind} {i}" for i in range(len(logits))]
    return [{"label": named[i], "number": int(i), "score": float(shares[i])} for i in order]


def embedding(states: np.ndarray) -> np.ndarray:
    """[length, hidden] -> [hidden]"""
    mean = states.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def _summary(array: np.ndarray) -> dict[str, Any]:
    flat = array.ravel()[:4]
    return {"shape": list(array.shape), "first": [round(float(x), 6) for x in flat]}
