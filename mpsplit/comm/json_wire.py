"""JSON values as bytes that travel between ranks.

In: a value, or the bytes of one, or a value and what gathers arrays. Out: bytes, or the value, or
the values of all ranks.

Invariant: what arrives is data: JSON makes numbers, texts, lists and objects, and runs nothing. Who
uses a value looks at it first, because its rank may have another version
(package/together/exchanged.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from mpsplit.errors import RunError


def exchanged(value: Any, gather: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
    """The value of every rank. `gather` gives the arrays of all ranks, of one shape, in one."""
    mine = packed(value)
    lengths = gather(np.array([mine.size]))[:, 0]
    blocks = gather(np.pad(mine, (0, lengths.max() - mine.size)))
    return [unpacked(block[:length], rank) for rank, (block, length) in enumerate(zip(blocks, lengths, strict=True))]


def packed(value: Any) -> np.ndarray:
    """uint8 of a value that comes back as it was."""
    assert _is_json(value), f"{value!r:.200} is no JSON value, and ranks exchange nothing else"
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpacked(data: np.ndarray, rank: int) -> Any:
    try:
        return json.loads(data.tobytes())
    except (ValueError, RecursionError):
        raise RunError(f"rank {rank} sent what is no JSON; install the same mpsplit for all ranks") from None


def _is_json(value: Any) -> bool:
    """Tuples would come back as lists, and keys as texts."""
    if type(value) is dict:
        return all(type(name) is str and _is_json(item) for name, item in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (bool, int, float, str)
