"""The cases that a parametrised test goes through: which on how many ranks, and which once more."""

from __future__ import annotations

import pytest


def thorough(*cases, ranks: int = 1) -> list:
    """Parameters that only `--thorough` tries, on so many ranks or more."""
    mark = pytest.mark.thorough(ranks)
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark) for case in cases]


def splits(ranks: int) -> list[tuple[int, int]]:
    """(tensor, pipeline) in {1, 2, 4} x {1, 2} that make exactly this many ranks."""
    return [(t, p) for t in (1, 2, 4) for p in (1, 2) if t * p == ranks]
