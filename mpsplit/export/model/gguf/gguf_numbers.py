"""The integers of a GGUF file's blocks, and the numbers that they are multiplied by.

In: blocks. Out: int8 of each weight, and a row of float32 for each block, as our kernels take them:
its scale, its minimum, then the scales of all its parts, then their minimums.

gguf-py knows what bytes mean: it turns a block into floats whose scales were made 1 and minimums 0,
which are the integers, and one whose integers were made 0 and 1, which tells the scales.

Invariant: nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpsplit.export.model.gguf.gguf_types import TYPES, floats

HALF = np.float16


@dataclass(frozen=True)
class Bytes:
    """Some of a block's, and what is put there: `fill`, again and again."""

    start: int
    stop: int
    fill: tuple[int, ...]

    def put(self, blocks: np.ndarray) -> None:
        """uint8 [..., bytes of a block]"""
        blocks[..., self.start : self.stop] = np.resize(np.array(self.fill, np.uint8), self.stop - self.start)


@dataclass(frozen=True)
class Anatomy:
    """Where a block has its scale and its minimum, float16.

    Of one with `parts`: what makes their scales 1 and their minimums 0, and what makes weights 0
    and 1 by turns; all 1, where there is no minimum.
    """

    scale: int
    minimum: int | None = None
    parts: int = 0
    scales: tuple[Bytes, ...] = ()
    weights: tuple[Bytes, ...] = ()


SIX_BITS = (1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1)  # of eight scales and minimums
ANATOMIES = {
    "Q4_0": Anatomy(0),
    "Q4_1": Anatomy(0, 2),
    "Q5_0": Anatomy(0),
    "Q5_1": Anatomy(0, 2),
    "Q8_0": Anatomy(0),
    "IQ4_NL": Anatomy(0),
    "Q2_K": Anatomy(80, 82, 16, (Bytes(0, 16, (1,)),), (Bytes(16, 80, (0, 0x55)),)),
    "Q3_K": Anatomy(
        108,
        None,
        16,
        (Bytes(96, 104, (0x11,)), Bytes(104, 108, (0xAA,))),
        (Bytes(0, 32, (0xFF,)), Bytes(32, 96, (0x55,))),
    ),
    "Q4_K": Anatomy(0, 2, 8, (Bytes(4, 16, SIX_BITS),), (Bytes(16, 144, (0, 0x11)),)),
    "Q5_K": Anatomy(0, 2, 8, (Bytes(4, 16, SIX_BITS),), (Bytes(16, 48, (0,)), Bytes(48, 176, (0, 0x11)))),
    "Q6_K": Anatomy(208, None, 16, (Bytes(192, 208, (1,)),), (Bytes(0, 128, (0x11,)), Bytes(128, 192, (0xAA,)))),
    "IQ4_XS": Anatomy(0, None, 8, (Bytes(2, 4, (0xAA,)), Bytes(4, 8, (0x11,))), (Bytes(8, 136, (0x88,)),)),
}
BY_NAME = {kind.name: kind for kind in TYPES.values()}


def integers(rows: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """int8 [n, k] and float32 [n, blocks * numbers of one] of rows of blocks, uint8 [n, bytes]."""
    made, anatomy = BY_NAME[kind], ANATOMIES[kind]
    blocks = rows.reshape(len(rows), -1, made.bytes).copy()
    halves = [at for at in (anatomy.scale, anatomy.minimum) if at is not None]
    numbers = [np.ascontiguousarray(blocks[..., at : at + 2]).view(HALF).astype(np.float32) for at in halves]
    if anatomy.parts:
        if anatomy.minimum is not None:
            numbers[1] = -numbers[1]  # which is subtracted there
        numbers += _of_parts(blocks, kind)
    _put_halves(blocks, halves, 1, 0)
    for unit in anatomy.scales:
        unit.put(blocks)
    values = floats(blocks.reshape(rows.shape), made).astype(np.int8)
    return values, np.concatenate(numbers, axis=-1).reshape(len(rows), -1)


def _of_parts(blocks: np.ndarray, kind: str) -> list[np.ndarray]:
    """float32 [n, blocks, parts]: scales, and minimums."""
    made, anatomy = BY_NAME[kind], ANATOMIES[kind]
    units = blocks.copy()
    _put_halves(units, [at for at in (anatomy.scale, anatomy.minimum) if at is not None], 1, 1)
    for fill in anatomy.weights:
        fill.put(units)
    parts = floats(units.reshape(len(units), -1), made).reshape(*blocks.shape[:2], anatomy.parts, -1)
    zero, one = parts[..., 0], parts[..., 1]
    return [one] if anatomy.minimum is None else [one - zero, 0 - zero]


def _put_halves(blocks: np.ndarray, at: list[int], *numbers: float) -> None:
    for place, number in zip(at, numbers, strict=False):
        blocks[..., place : place + 2] = np.array([number], HALF).view(np.uint8)
