"""What is in a rank's weight files, byte by byte, before there are any.

In: the final Param. Out: each file as Arrays.

A packed file holds the matrices of a decoder layer's QLinear layers and their biases. One file has
rows of the embedding as their source has them, one what other layers own, as ncnn reads it.

Invariant: the bytes of a file follow from its arrays' names, cuts and encodings and from the source
alone. Any of its pieces can be made without the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from mpsplit.export.weights.encode import Encoder, EncoderOf, WeightEncoder
from mpsplit.export.weights.gemm_blocks import GemmBlocks
from mpsplit.export.weights.weight_source import Source
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored import embedding
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.stored.float_weights import ALIGNMENT, FLAG, FLOAT_BYTES, Owned, arrays_of, gemm_shape, weights_of
from mpsplit.package.stored.quantisation import FLOAT, QLinear, Quantisation
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.whole_files import widened
from mpsplit.plan.cuts import Part, owned_part, source_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range, Shard

ROWS_AT_ONCE = 8 << 20  # bytes of float32 that are held at a time
PANEL = 16  # rows that are packed together: more at a time give the same bytes
LAYOUT = 1  # another number where the same arrays give other bytes than before


def some_panels(shape: tuple[int, ...], most: int) -> Iterator[Range]:
    """Rows of a weight in whole panels, of so many bytes of float32 at most where a panel is not
    larger."""
    step = max(PANEL, most // (FLOAT_BYTES * math.prod(shape[1:])) // PANEL * PANEL)
    for start in range(0, shape[0], step):
        yield Range(start, min(start + step, shape[0]))


@dataclass(frozen=True)
class Array:
    """A slice of a source's tensor as it is written, in `size` bytes. `kind`: "packed", by an
    encoder where it is not already, "integers" or "scales" of GemmBlocks, "rows" of an embedding in
    8 bits, "float", or "own" as it is stored. `before` and `after`: bytes that stand around it."""

    name: str
    part: Part
    shape: tuple[int, ...]
    kind: str
    size: int
    encoder: WeightEncoder | None = None
    before: bytes = b""
    after: int = 0
    blocks: GemmBlocks | None = None

    @property
    def total(self) -> int:
        return len(self.before) + self.size + self.after

    def pieces(self) -> Iterator[tuple[int, int, int]]:
        """(first row, last row + 1, bytes) of what is read and written at a time."""
        unit = PANEL if self.kind == "packed" else 1
        for rows in some_panels(self.shape, ROWS_AT_ONCE):
            yield rows.start, rows.stop, self.size // -(-self.shape[0] // unit) * -(-len(rows) // unit)

    @property
    def outline(self) -> str:
        """All that decides the bytes, but for those of the source."""
        encoder = self.blocks.encoder if self.blocks else self.encoder
        how = encoder.text if encoder else ""
        return (
            f"{self.name} {self.part.axis} {self.part.range} {self.shape} {self.kind} {how} {self.before.hex()}"
            f" {self.after}"
        )

    @property
    def is_derived(self) -> bool:
        """Whether another array was made of the same rows, which need not be read again."""
        return self.kind == "scales"

    def make(self, read: Callable[[], np.ndarray], dtype: str, start: int) -> np.ndarray:
        """What is written of rows `start` and following, which `read` gives as the source has them,
        in `dtype`."""
        if self.kind == "own" or self.kind == "packed" and not self.encoder:
            return read()
        if self.blocks:
            make = self.blocks.integers if self.kind == "integers" else self.blocks.scales
            return make(lambda: widened(read(), dtype), start)
        rows = widened(read(), dtype)
        if self.kind == "rows":
            assert self.encoder, "rows in 8 bits are encoded"
            return embedding.stored(rows, self.encoder.how.block)
        return self.encoder(rows, start) if self.encoder else rows


@dataclass(frozen=True)
class WeightFile:
    """`role`: "packed", "embedding" or "floats"; `offset`: where a packed one lies among them."""

    role: str
    arrays: tuple[Array, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        return sum(array.total for array in self.arrays)

    @property
    def outline(self) -> str:
        """A hash: files of one outline differ only where their sources do."""
        return hashlib.sha256("\n".join([str(LAYOUT), *(a.outline for a in self.arrays)]).encode()).hexdigest()[:32]


def contents(
    param: Param,
    shard: Shard,
    facts: ModelFacts,
    source: Source,
    recipe: Recipe,
    dtype: str,
    encoder_of: EncoderOf | None = None,
) -> list[WeightFile]:
    """In the order in which they are made, the packed ones first: what calibration does to floats
    follows from them. `dtype`: of the embedding, as the manifest has it."""
    encoder_of = encoder_of or (lambda name, how: Encoder(how, recipe.scales) if how.bits else None)
    files = []
    linears = [layer for layer in param.layers if layer.type == QLINEAR]
    for _, run in groupby(linears, lambda layer: facts.family.layer_of(layer.name)):
        layers = list(run)
        arrays = [a for layer in layers for a in _of_linear(layer, _parts(layer, shard, facts, source), encoder_of)]
        files.append(WeightFile("packed", tuple(arrays), QLinear.of(layers[0]).offset))
    if shard.stage == 0 and dtype != HEAD_ROWS:
        files.append(WeightFile("embedding", (_embedding(shard, facts, dtype, recipe.embedding),)))
    floats = [
        array
        for layer in param.layers
        if layer.type != QLINEAR
        for array in _of_ncnn(layer, _parts(layer, shard, facts, source), encoder_of)
    ]
    files.append(WeightFile("floats", tuple(floats)))
    last = [source_of(file.arrays[-1].name, facts) for file in files if file.arrays]
    assert dtype != HEAD_ROWS or not len(shard.head) or facts.family.embedding in last, (
        f"the head is not the last of its file: {last}"
    )
    return files


def _embedding(shard: Shard, facts: ModelFacts, dtype: str, how: Quantisation | None) -> Array:
    name, part, shape = facts.family.embedding, Part(0, shard.embed), (len(shard.embed), facts.hidden)
    if how:
        return Array(name, part, shape, "rows", shape[0] * embedding.row_bytes(facts.hidden, how.block), Encoder(how))
    return Array(name, part, shape, "own", shape[0] * embedding.stored_row(dtype, facts.hidden))


# by the name of a weight: the tensor of the source, and which part of it
Parts = dict[str, tuple[str, Part]]


def _parts(layer: Layer, shard: Shard, facts: ModelFacts, source: Source) -> Parts:
    """Of what a layer owns."""
    return {name: (source.tensor_of(name, facts), owned_part(name, shard, facts)) for name in weights_of(layer)}


def _of_linear(layer: Layer, parts: Parts, encoder_of: EncoderOf) -> list[Array]:
    q, (name, *biases) = QLinear.of(layer), parts
    encoder, size = encoder_of(name, Quantisation(q.bits, q.block)), FLOAT_BYTES * q.n
    return [
        Array(*parts[name], (q.n, q.k), "packed", q.bytes, encoder, after=-q.bytes % ALIGNMENT),
        *(Array(*parts[b], (q.n,), "float", size, encoder_of(b, FLOAT), after=-size % ALIGNMENT) for b in biases),
    ]


def _of_ncnn(layer: Layer, parts: Parts, encoder_of: EncoderOf) -> list[Array]:
    """What the layer has in the file of floats."""
    owned, how = arrays_of(layer), Quantisation.of(layer)
    if not (how and how.bits):
        return _floats(list(parts), parts, owned, encoder_of)
    (name, *biases), (integers, *bias, divisors) = parts, owned
    encoder = encoder_of(name, how)
    assert encoder, f"{name} is no float, and nothing encodes it"
    blocks = GemmBlocks(encoder)
    first, last = (
        Array(*parts[name], gemm_shape(layer), kind, own.bytes, blocks=blocks)
        for kind, own in (("integers", integers), ("scales", divisors))
    )
    return [first, *_floats(biases, parts, bias, encoder_of), last]


def _floats(names: list[str], parts: Parts, owned: list[Owned], encoder_of: EncoderOf) -> list[Array]:
    return [
        Array(*parts[name], own.shape, "float", own.bytes, encoder_of(name, FLOAT), before=FLAG * own.flagged)
        for name, own in zip(names, owned, strict=True)
    ]
