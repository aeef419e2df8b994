"""Rows of a weight as they are stored, by every method.

In: float32 rows and a Quantisation. Out: bytes of a weight file.

Invariant: rows are independent, and panels of 16 follow each other: what comes of pieces of 16 m
rows (the last may be shorter), one after the other, is what comes of all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mpsplit.native.cpp import kernels
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation
from mpsplit.package.stored.recipe import text_of

if TYPE_CHECKING:  # it needs torch, which a conversion without calibration does not load
    from mpsplit.export.weights.awq import Scaling


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

    def integers(self, rows: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The same before they are packed: int8 [rows, k] and float32 scales [rows, k / block]."""


@dataclass(frozen=True)
class Encoder:
    """`scales` is one of recipe.SCALES; `scaling` is AWQ's; `u` makes it GPTQ: gptq.factor of the
    inputs' second moments, after the scaling."""

    how: Quantisation
    scales: str = "minmax"
    scaling: Scaling | None = None
    u: np.ndarray | None = None

    @property
    def text(self) -> str:
        assert self.scaling is None and self.u is None, "what was calibrated is told by who calibrated it"
        return f"{text_of(self.how)} {self.scales}"

    def __call__(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        return encoded(self._scaled(rows, first), self.how, self.scales, self.u)

    def integers(self, rows: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        return integers(self._scaled(rows, first), self.how, self.scales, self.u)

    def _scaled(self, rows: np.ndarray, first: int) -> np.ndarray:
        return self.scaling(rows, first) if self.scaling else rows


# of the weight of this name, or what is called like one; None for what stays as it is
EncoderOf = Callable[[str, Quantisation], WeightEncoder | None]


def encoded(rows: np.ndarray, how: Quantisation, scales: str = "minmax", u: np.ndarray | None = None) -> np.ndarray:
    """bfloat16 is rounded to the nearest, whatever the method."""
    rows = np.ascontiguousarray(rows, np.float32)
    if not how.bits:
        return rows
    if u is None or how.bits == BFLOAT:
        return kernels().pack(rows, how.bits, how.block, scales=scales)
    return kernels().pack_values(*integers(rows, how, scales, u), how.bits, how.block)


def integers(
    rows: np.ndarray, how: Quantisation, scales: str = "minmax", u: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.ascontiguousarray(rows, np.float32)
    if u is None:
        return kernels().integers(rows, how.bits, how.block, scales)
    from mpsplit.export.weights.gptq import gptq

    return gptq(rows, u, how, scales)
