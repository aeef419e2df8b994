"""Embeddings and scores as clients expect them.

In: results of the stages. Out: the bodies of answers.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from mpsplit.serve.openai.text_bodies import EmbeddingsBody, RerankBody


def embeddings_answer(model: str, body: EmbeddingsBody, vectors: Sequence[list[float]], tokens: int) -> dict[str, Any]:
    """OpenAI's."""
    packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if packed else vector}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": _usage(tokens)}


def rerank_answer(model: str, body: RerankBody, scores: Sequence[float], tokens: int) -> dict[str, Any]:
    """Jina's: the best first, equal ones in the order in which they were sent."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = []
    for index in order:
        result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        results.append(result | ({"document": {"text": body.texts[index]}} if body.return_documents else {}))
    return {"model": model, "results": results, "usage": _usage(tokens)}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _base64(vector: list[float]) -> str:
    """As float32, the lowest byte first."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
