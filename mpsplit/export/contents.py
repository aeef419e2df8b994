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
from mpsplit.export.encode import Encoder, EncoderOf
from mpsplit.native import kernels
from mpsplit.package import embedding
from mpsplit.package.manifest import EMBED, QUANTISED, WEIGHTS
from mpsplit.package.param import Param
from mpsplit.package.quantisation import FLOAT, QLinear, Quantisation
from mpsplit.package.quantisation import LAYER as QLINEAR
from mpsplit.package.recipe import Recipe
from mpsplit.package.weights import ALIGNMENT, FLAG, FLOAT_BYTES, arrays_of, weights_of
from mpsplit.plan.cuts import EMBEDDING, Part, part_of, source_of
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Shard

ROWS_AT_ONCE = 8 << 20  # bytes of float32 that are held at a time
PANEL = 16  # rows that are packed together: more at a time give the same bytes


@dataclass(frozen=True)
class Array:
    """A slice of a checkpoint's tensor as it is written. `kind`: "packed" and "float" come from an Encoder, "rows" are of an embedding in
    8 bits, "own" is as it is stored. `before` and `after`: bytes that stand around it."""

    name: str
    part: Part
    shape: tuple[int, ...]
    kind: str
    bytes: int
    encoder: Encoder | None = None
    before: bytes = b""
    after: int = 0

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
        rows = checkpoint.floats(self.name, self.part, start, stop)
        if self.kind == "rows":
            return embedding.stored(rows, self.encoder.how.block)
        return self.encoder(rows, start)


def contents(
    param: Param,
    shard: Shard,
    facts: ModelFacts,
    checkpoint: Checkpoint,
    recipe: Recipe,
    encoder_of: EncoderOf | None = None,
) -> dict[str, list[Array]]:
    """File name -> its arrays in order. The packed ones first: what calibration does to the others follows from them."""
    encoder_of = encoder_of or (lambda name, how: Encoder(how, recipe.scales))
    files: dict[str, list[Array]] = {QUANTISED: [], WEIGHTS: [], EMBED: []}
    for layer in param.layers:
        names = weights_of(layer)
        parts = [(source_of(name, facts), part_of(name, shard, facts)) for name in names]
        if layer.type == QLINEAR:
            files[QUANTISED] += _of_linear(QLinear.of(layer), names, parts, encoder_of)
            continue
        for name, part, (shape, flagged) in zip(names, parts, arrays_of(layer), strict=True):
            size, encoder = FLOAT_BYTES * math.prod(shape), encoder_of(name, FLOAT)
            files[WEIGHTS].append(Array(*part, shape, "float", size, encoder, before=FLAG * flagged))
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


def _of_linear(q: QLinear, names: tuple[str, ...], parts: list[tuple[str, Part]], encoder_of: EncoderOf) -> list[Array]:
    encoder = encoder_of(names[0], Quantisation(q.bits, q.block))
    arrays = [Array(*parts[0], (q.n, q.k), "packed", q.bytes, encoder, after=-q.bytes % ALIGNMENT)]
    for name, part in zip(names[1:], parts[1:], strict=True):
        size = FLOAT_BYTES * q.n
        arrays.append(Array(*part, (q.n,), "float", size, encoder_of(name, FLOAT), after=-size % ALIGNMENT))
    return arrays
