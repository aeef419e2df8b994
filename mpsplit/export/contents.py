"""What is in a rank's weight files, byte by byte, before there are any. In: the final Param. Out: each file as a list of Arrays.

quantised.bin holds the matrices of QLinear layers and their biases, model.bin what other layers own as ncnn reads it, embed.bin rows of
the embedding as the checkpoint has them. Invariant: the bytes of a file follow from the graph and the checkpoint alone, and any
of its pieces can be made without the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpsplit.export.checkpoint import Checkpoint
from mpsplit.export.encode import Encoder
from mpsplit.export.gemm_blocks import GemmBlocks
from mpsplit.native import kernels
from mpsplit.package import embedding
from mpsplit.package.manifest import EMBED, QUANTISED, WEIGHTS
from mpsplit.package.param import Layer, Param
from mpsplit.package.quantisation import LAYER as QLINEAR
from mpsplit.package.quantisation import QLinear, Quantisation
from mpsplit.package.recipe import Recipe
from mpsplit.package.weights import ALIGNMENT, FLAG, FLOAT_BYTES, Owned, arrays_of, gemm_shape, weights_of
from mpsplit.plan.cuts import EMBEDDING, Part, part_of, source_of
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Shard

ROWS_AT_ONCE = 8 << 20  # bytes of float32 that are held at a time
PANEL = 16  # rows that are packed together: more at a time give the same bytes


@dataclass(frozen=True)
class Array:
    """A slice of a checkpoint's tensor as it is written. `kind`: "packed" by an Encoder, "integers" or "scales" of GemmBlocks, "rows" of an
    embedding in 8 bits, "float", or "own" as it is stored. `before` and `after`: bytes that stand around it."""

    name: str
    part: Part
    shape: tuple[int, ...]
    kind: str
    bytes: int
    encoder: Encoder | None = None
    before: bytes = b""
    after: int = 0
    blocks: GemmBlocks | None = None

    @property
    def total(self) -> int:
        return len(self.before) + self.bytes + self.after

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """(first row, last row + 1, bytes) of what is read and written at a time."""
        rows, width = self.shape[0], math.prod(self.shape[1:])
        step = max(PANEL, ROWS_AT_ONCE // (FLOAT_BYTES * width) // PANEL * PANEL)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            if self.kind == "packed":
                how = self.encoder.how
                yield start, stop, kernels().packed_bytes(stop - start, width, how.bits, how.block)
            else:
                yield start, stop, self.bytes // rows * (stop - start)

    def make(self, checkpoint: Checkpoint, start: int, stop: int) -> np.ndarray:
        if self.kind == "own":
            return checkpoint.stored(self.name, self.part, start, stop)
        if self.blocks:
            make = self.blocks.integers if self.kind == "integers" else self.blocks.scales
            return make(lambda: checkpoint.floats(self.name, self.part, start, stop), start)
        rows = checkpoint.floats(self.name, self.part, start, stop)
        if self.kind == "rows":
            return embedding.stored(rows, self.encoder.how.block)
        return self.encoder(rows, start) if self.kind == "packed" else rows


def contents(
    param: Param, shard: Shard, facts: ModelFacts, checkpoint: Checkpoint, recipe: Recipe
) -> dict[str, list[Array]]:
    """File name -> its arrays in order."""
    files: dict[str, list[Array]] = {WEIGHTS: [], QUANTISED: [], EMBED: []}
    for layer in param.layers:
        names = weights_of(layer)
        parts = [(source_of(name, facts), part_of(name, shard, facts)) for name in names]
        if layer.type == QLINEAR:
            files[QUANTISED] += _of_linear(QLinear.of(layer), parts, recipe.scales)
        else:
            files[WEIGHTS] += _of_ncnn(layer, parts, recipe.scales)
    if shard.stage == 0:
        files[EMBED].append(_embedding(shard, facts, checkpoint, recipe.embedding))
    else:
        del files[EMBED]
    if not files[QUANTISED]:
        del files[QUANTISED]
    return files


def _embedding(shard: Shard, facts: ModelFacts, checkpoint: Checkpoint, how: Quantisation | None) -> Array:
    part, shape = Part(0, shard.embed), (len(shard.embed), facts.hidden)
    if how:
        return Array(
            EMBEDDING, part, shape, "rows", shape[0] * embedding.row_bytes(facts.hidden, how.block), Encoder(how)
        )
    return Array(EMBEDDING, part, shape, "own", checkpoint.entries[EMBEDDING].itemsize * math.prod(shape))


def _of_linear(q: QLinear, parts: list[tuple[str, Part]], scales: str) -> list[Array]:
    encoder = Encoder(Quantisation(q.bits, q.block), scales)
    matrix = Array(*parts[0], (q.n, q.k), "packed", q.bytes, encoder, after=-q.bytes % ALIGNMENT)
    size = FLOAT_BYTES * q.n
    return [matrix, *(Array(*part, (q.n,), "float", size, after=-size % ALIGNMENT) for part in parts[1:])]


def _of_ncnn(layer: Layer, parts: list[tuple[str, Part]], scales: str) -> list[Array]:
    """What the layer has in model.bin."""
    owned, how = arrays_of(layer), Quantisation.of(layer)
    if not (how and how.bits):
        return _floats(parts, owned)
    blocks, (integers, *bias, divisors) = GemmBlocks(Encoder(how, scales)), owned
    first, last = (
        Array(*parts[0], gemm_shape(layer), kind, own.bytes, blocks=blocks)
        for kind, own in (("integers", integers), ("scales", divisors))
    )
    return [first, *_floats(parts[1:], bias), last]


def _floats(parts: list[tuple[str, Part]], owned: list[Owned]) -> list[Array]:
    return [
        Array(*part, own.shape, "float", own.bytes, before=FLAG * own.flagged)
        for part, own in zip(parts, owned, strict=True)
    ]
