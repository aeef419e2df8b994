"""Operators that are spelled out before any target sees them: one table for all targets.

Out: torch's core set, and what batch norm and embeddings need beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, get_decompositions

aten = torch.ops.aten

BESIDE_CORE = [
    aten._native_batch_norm_legit_functional.default,
    aten.native_batch_norm_backward.default,
    aten.native_layer_norm_backward.default,
    aten.embedding_dense_backward.default,
]


def decompositions() -> dict[Any, Callable[..., Any]]:
    return {**core_aten_decompositions(), **get_decompositions(BESIDE_CORE)}
