"""Ways to do the same, timed in turns, so that all of them meet the same weather.

In: ways by name, what each is given. Out: how many a second each does, the median of its rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

Way = Callable[[np.ndarray], float]  # many inputs -> seconds


def in_batches(compute: Callable[[np.ndarray], object], size: int | None = None) -> Way:
    """`size` inputs at once, or all."""

    def way(inputs: np.ndarray) -> float:
        step, began = size or len(inputs), time.perf_counter()
        for first in range(0, len(inputs), step):
            compute(inputs[first : first + step])
        return time.perf_counter() - began

    return way


def rates(ways: Mapping[str, Way], inputs: Callable[[], np.ndarray], rounds: int) -> dict[str, float]:
    """Inputs a second. Each round has new ones; the first warms up."""
    found: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        given = inputs()
        found.append({name: len(given) / way(given) for name, way in ways.items()})
    return {name: median(row[name] for row in found[1:]) for name in ways}


def table(speeds: Mapping[str, float], unit: str, beside: Sequence[str], name: str) -> str:
    """`beside`: those of whose best the others are so many times as fast; `name`: of that best."""
    best = max(speeds[way] for way in beside)
    rows = [f"| {way} | {speed:.1f} | {speed / best:.2f} |" for way, speed in speeds.items()]
    return "\n".join([f"| | {unit}/s | x {name} |", "|---|---|---|", *rows])
