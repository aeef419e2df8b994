"""What is in a rank's weight files, byte by byte, before there are any. In: the final Param. Out: each file as a list of Arrays.

quantised.bin holds the matrices of QLinear layers and their biases, model.bin what other layers own as ncnn reads it, embed.bin rows of
the embedding as the checkpoint has them. Invariant: the bytes of a file follow from the graph and the source alone, and any
of its pieces can be made without the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpsplit.export.encode import Encoder
from mpsplit.native import kernels
from mpsplit.package import embedding
from mpsplit.package.manifest import EMBED, QUANTISED, WEIGHTS
from mpsplit.package.param import Param
from mpsplit.package.quantisation import LAYER as QLINEAR
from mpsplit.package.quantisation import QLinear, Quantisation
from mpsplit.package.recipe import Recipe
from mpsplit.package.weights import ALIGNMENT, FLAG, FLOAT_BYTES, arrays_of, weights_of
from mpsplit.plan.cuts import EMBEDDING, Part, part_of
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Shard

ROWS_AT_ONCE = 8 << 20  # bytes of float32 that are held at a time
PANEL = 16  # rows that are packed together: more at a time give the same bytes


class Source(Protocol):
    """What weights are read from: a checkpoint, or the package that another plan made of it (repacked.py)."""

    bytes_read: int

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        """The name that it has a weight under."""

    def type_of(self, name: str) -> str:
        """Of the embedding, as the manifest spells it."""

    def stored(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        """Rows of a part in its own type."""

    def floats(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        """Rows of a part in float32."""

    def packed(self, name: str, part: Part, encoder: Encoder, start: int, stop: int) -> np.ndarray:
        """Rows of a part as they are in quantised.bin; `start` is a multiple of PANEL."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Array:
    """A slice of a source's tensor as it is written. `kind`: "packed" by an Encoder, "rows" of an embedding in 8 bits, "float", or
    "own" as it is stored. `before` and `after`: bytes that stand around it."""

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

    def make(self, source: Source, start: int, stop: int) -> np.ndarray:
        if self.kind == "own":
            return source.stored(self.name, self.part, start, stop)
        if self.kind == "packed":
            return source.packed(self.name, self.part, self.encoder, start, stop)
        rows = source.floats(self.name, self.part, start, stop)
        return embedding.stored(rows, self.encoder.how.block) if self.kind == "rows" else rows


def contents(param: Param, shard: Shard, facts: ModelFacts, source: Source, recipe: Recipe) -> dict[str, list[Array]]:
    """File name -> its arrays in order."""
    files: dict[str, list[Array]] = {WEIGHTS: [], QUANTISED: [], EMBED: []}
    for layer in param.layers:
        names = weights_of(layer)
        parts = [(source.tensor_of(name, facts), part_of(name, shard, facts)) for name in names]
        if layer.type == QLINEAR:
            files[QUANTISED] += _of_linear(QLinear.of(layer), parts, recipe.scales)
            continue
        for (name, part), (shape, flagged) in zip(parts, arrays_of(layer), strict=True):
            size = FLOAT_BYTES * math.prod(shape)
            files[WEIGHTS].append(Array(name, part, shape, "float", size, before=FLAG * flagged))
    if shard.stage == 0:
        files[EMBED].append(_embedding(shard, facts, source, recipe.embedding))
    else:
        del files[EMBED]
    if not files[QUANTISED]:
        del files[QUANTISED]
    return files


def _embedding(shard: Shard, facts: ModelFacts, source: Source, how: Quantisation | None) -> Array:
    part, shape = Part(0, shard.embed), (len(shard.embed), facts.hidden)
    if how:
        return Array(
            EMBEDDING, part, shape, "rows", shape[0] * embedding.row_bytes(facts.hidden, how.block), Encoder(how)
        )
    return Array(
        EMBEDDING, part, shape, "own", shape[0] * embedding.stored_row(source.type_of(EMBEDDING), facts.hidden)
    )


def _of_linear(q: QLinear, parts: list[tuple[str, Part]], scales: str) -> list[Array]:
    encoder = Encoder(Quantisation(q.bits, q.block), scales)
    matrix = Array(*parts[0], (q.n, q.k), "packed", q.bytes, encoder, after=-q.bytes % ALIGNMENT)
    size = FLOAT_BYTES * q.n
    return [matrix, *(Array(*part, (q.n,), "float", size, after=-size % ALIGNMENT) for part in parts[1:])]
