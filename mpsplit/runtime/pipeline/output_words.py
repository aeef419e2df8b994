"""Outputs for people: the best labels of an image or a text, a text's embedding, or how well two
texts fit.

In: the model's outputs, the pipeline. Out: plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.runtime.pipeline.pooling import embedding

LOGITS, STATES = "logits", "last_hidden_state"


def answer(outputs: dict[str, np.ndarray], pipeline: Pipeline, top: int) -> dict[str, Any]:
    """Labels with their shares of 1 where there are logits of classes, the `score` where there is
    but one, or the tokens that may come `next`; a text's `embedding`, of its last hidden states;
    else how each output looks."""
    logits = outputs.get(LOGITS)
    if gives_score(pipeline):
        return {"score": score(outputs)}
    if logits is not None and logits.ndim == 3:
        return {"next": best(logits[0, -1], (), top, "token")}
    if logits is not None and logits.ndim == 2:
        return {"labels": best(logits[0], pipeline.labels, top)}
    if (states := outputs.get(STATES)) is not None and states.ndim == 3:
        return {"embedding": embedding(states[0], pipeline.sentences).tolist()}
    return {"outputs": {name: _summary(array) for name, array in outputs.items()}}


def best(logits: np.ndarray, labels: tuple[str, ...], top: int, kind: str = "class") -> list[dict[str, Any]]:
    """`kind`: of what has no name but a number."""
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    named = labels if len(labels) == len(logits) else [f"{kind} {i}" for i in range(len(logits))]
    return [{"label": named[i], "number": int(i), "score": float(shares[i])} for i in order]


def gives_embedding(pipeline: Pipeline) -> bool:
    """Whether the model is an encoder, whose hidden states a text's embedding is made of."""
    states = pipeline.outputs.get(STATES)
    return states is not None and LOGITS not in pipeline.outputs and len(pipeline.values[states].shape) == 3


def gives_score(pipeline: Pipeline) -> bool:
    """Whether the model is a cross-encoder: it says with one number how well two texts fit."""
    logits = pipeline.outputs.get(LOGITS)
    return logits is not None and pipeline.values[logits].shape == (1, 1)


def score(outputs: Mapping[str, np.ndarray]) -> float:
    """From 0 to 1."""
    [[logit]] = outputs[LOGITS].astype(np.float64)
    return float(np.exp(-np.logaddexp(0.0, -logit)))


def _summary(array: np.ndarray) -> dict[str, Any]:
    flat = array.ravel()[:4]
    return {"shape": list(array.shape), "first": [round(float(x), 6) for x in flat]}
