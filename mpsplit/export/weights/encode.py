"""Rows of a weight as they are stored, by every method.

In: float32 rows and a Quantisation. Out: bytes of a weight file.

Invariant: rows are independent, and panels of 16 follow each other: what comes of pieces of 16 m
rows (the last may be shorter), one after the other, is what comes of all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpsplit.native.cpp import kernels
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation

Integers = tuple[np.ndarray, np.ndarray]  # values int8 [rows, k], scales float32 [rows, k / block]
Scaled = Callable[[np.ndarray, int], np.ndarray]  # rows, the number of the first -> rows (awq.Scaling)


class WeightEncoder(Protocol):
    """How one weight is stored: an Encoder, or what becomes one later (calibrated_encoders.py)."""

    @property
    def how(self) -> Quantisation: ...

    @property
    def text(self) -> str:
        """All that decides the bytes, but for the rows."""

    def __call__(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        """uint8, of rows `first` and following of the rank's slice; float32 where nothing
        is packed"""

    def integers(self, rows: np.ndarray, first: int = 0) -> Integers:
        """The same before they are packed."""


@dataclass
class Verdict:
    """Of how many rows GPTQ was better on held-back text."""

    better: int = 0
    rows: int = 0

    def add(self, better: np.ndarray) -> None:
        self.better, self.rows = self.better + int(better.sum()), self.rows + len(better)

    def __str__(self) -> str:
        return (
            f"better than none on held-back text for {self.better:,} of {self.rows:,} rows of weights; the others are"
            " rounded without it"
        )


def dequantised(stored: Integers) -> np.ndarray:
    values, scales = stored
    return (values.reshape(*scales.shape, -1) * scales[..., None]).reshape(values.shape)


def output_errors(difference: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """float64 [n]: the mean of (d x)^2 over the inputs x with these second moments, of each row d
    of [n, k]."""
    return np.einsum("ij,ij->i", difference @ moments, difference, dtype=np.float64)


@dataclass(frozen=True)
class Encoder:
    """`scales` is one of recipe.SCALES; `scaling` is AWQ's; `u` makes it GPTQ: gptq.factor of the
    inputs' second moments, after the scaling. `held`: those of a text that was held back; each row
    is then rounded in the way that loses less there, with GPTQ or without, and `verdict` counts."""

    how: Quantisation
    scales: str = "minmax"
    scaling: Scaled | None = None
    u: np.ndarray | None = None
    held: np.ndarray | None = None
    verdict: Verdict | None = None

    @property
    def text(self) -> str:
        assert self.scaling is None and self.u is None, "what was calibrated is told by who calibrated it"
        return f"{self.how.address} {self.scales}"

    def __call__(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        if self.u is None or self.how.bits == BFLOAT:
            return encoded(self._scaled(rows, first), self.how, self.scales)
        return kernels().pack_values(*self.integers(rows, first), self.how.bits, self.how.block)

    def integers(self, rows: np.ndarray, first: int = 0) -> Integers:
        rows = self._scaled(rows, first)
        found = integers(rows, self.how, self.scales, self.u)
        return found if self.u is None or self.held is None else self._judged(rows, found)

    def _judged(self, rows: np.ndarray, calibrated: Integers) -> Integers:
        assert self.held is not None, "it is what judges"
        plain = integers(rows, self.how, self.scales)
        lost, lost_plainly = (output_errors(rows - dequantised(each), self.held) for each in (calibrated, plain))
        better = lost <= lost_plainly
        if self.verdict:
            self.verdict.add(better)
        one, other = (np.where(better[:, None], a, b) for a, b in zip(calibrated, plain, strict=True))
        return one, other

    def _scaled(self, rows: np.ndarray, first: int) -> np.ndarray:
        return self.scaling(rows, first) if self.scaling else rows


# of the weight of this name, or what is called like one; None for what stays as it is
EncoderOf = Callable[[str, Quantisation], WeightEncoder | None]


def encoded(rows: np.ndarray, how: Quantisation, scales: str = "minmax") -> np.ndarray:
    """bfloat16 is rounded to the nearest, whatever the method."""
    rows = np.ascontiguousarray(rows, np.float32)
    return kernels().pack(rows, how.bits, how.block, scales=scales) if how.bits else rows


def integers(rows: np.ndarray, how: Quantisation, scales: str = "minmax", u: np.ndarray | None = None) -> Integers:
    rows = np.ascontiguousarray(rows, np.float32)
    if u is None:
        return kernels().integers(rows, how.bits, how.block, scales)
    from mpsplit.export.weights.gptq import gptq

    return gptq(rows, u, how, scales)
