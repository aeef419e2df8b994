"""Weights out of a package, for another plan.

In: the files of its ranks. Out: any part of any weight, in the bits that are there.

Integers and scales are taken out of packed matrices, cut and joined, and packed again: nothing
becomes float and is rounded anew. Invariant: where no block is split (block_cuts.py), what comes
out is what the package's own conversion would have stored for the part.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.export.model.checkpoint import read_at
from mpsplit.export.weights.weight_contents import PANEL
from mpsplit.native.cpp import kernels
from mpsplit.package.manifest import GRAPH, MANIFEST, Manifest, rank_folder
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.embedding import BITS as TABLE_BITS
from mpsplit.package.stored.embedding import HEAD_ROWS, block_of, dtype_of, joined, stored_row
from mpsplit.package.stored.embedding import floats as unrounded
from mpsplit.package.stored.float_weights import ALIGNMENT, arrays_of, weights_of
from mpsplit.package.stored.quantisation import BFLOAT, FLOAT, GEMM, QLinear, Quantisation
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.recipe import Recipe, Rule, text_of
from mpsplit.package.stored.weight_files import WeightFiles, inside
from mpsplit.package.whole_files import NUMPY_TYPES, widened
from mpsplit.plan.cuts import Part, linears_of, part_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range, Shard


@dataclass(frozen=True)
class Slice:
    """One rank's part of a weight: rows of numbers, or a packed matrix, at an offset."""

    part: Part
    file: Path
    offset: int
    shape: tuple[int, ...]
    number: type[np.generic] = np.float32  # of numpy
    matrix: QLinear | None = None

    @property
    def how(self) -> Quantisation:
        return Quantisation(self.matrix.bits, self.matrix.block) if self.matrix else FLOAT

    @property
    def packed(self) -> QLinear:
        assert self.matrix, f"{self} is not packed"
        return self.matrix

    @property
    def owned(self) -> Range:
        """Which rows or columns it is, of a weight that is cut."""
        assert self.part.range is not None, f"{self} is whole"
        return self.part.range


class Repacked:
    """Weights of some ranks of a package, in the place of a Checkpoint. `embedding`: the type that
    its rows have as a table, which the head's can become where it is both; None where these ranks
    have none of it."""

    def __init__(self, package: Path, manifest: Manifest, ranks: list[int], foreign: bool = False):
        """`foreign`: whether some may be in ncnn's own layout, which is not read."""
        self.ranks, self.bytes_read = ranks, 0
        self.foreign: set[str] = set()
        self._facts = manifest.facts
        self._open: dict[Path, int] = {}
        self._slices: dict[str, list[Slice]] = defaultdict(list)
        for rank in ranks:
            for name, piece in _slices_of(rank_folder(package, rank), manifest, rank):
                if piece is None:
                    self.foreign.add(name)
                    continue
                part, shape = piece.part, piece.shape
                if part.shape_of(shape) != shape:
                    raise PackageError(
                        f"rank {rank} has {name} of shape {list(shape)}, its plan says {part.range}; convert the model"
                        " again"
                    )
                self._slices[name].append(piece)
        self.embedding = None if manifest.dtype == HEAD_ROWS else manifest.dtype
        if self.foreign and not foreign:
            raise PackageError(
                f"{min(self.foreign)} is stored in ncnn's own layout, which stays as it was cut; partition the model"
                " again and convert it --layout ncnn"
            )
        family = manifest.facts.family
        if manifest.dtype == HEAD_ROWS and family.head in self._slices:
            self._slices[family.embedding] = self._slices[family.head]
            self.embedding = _as_table(self._slices[family.head][0].how)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    @property
    def recipe(self) -> Recipe:
        """How each linear is stored. The embedding is not in it: it stays as it is."""
        kinds: dict[str, Quantisation] = {}
        for name in filter(self._slices.__contains__, linears_of(self._facts)):
            ways = {piece.how for piece in self._slices[name]}
            if len(ways) > 1:
                raise PackageError(
                    f"{name} is stored in {len(ways)} ways by the ranks of one package; convert it again"
                )
            kinds[name] = ways.pop()
        default = Counter(kinds.values()).most_common(1)[0][0] if kinds else FLOAT
        # which may be tied
        others = {name: how for name, how in kinds.items() if how != default or name == self._facts.family.head}
        return Recipe(default, tuple(Rule(name.removesuffix(".weight"), how) for name, how in others.items()))

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        """A tied head has a matrix of its own here."""
        return weight

    def type_of(self, name: str) -> str:
        if name == self._facts.family.embedding:
            assert self.embedding, "these ranks have none of the embedding"
            return self.embedding
        how = self._slices[name][0].how
        return text_of(how) if how.bits else "F32"

    def file_of(self, name: str) -> str:
        """It tells the hashes of all others."""
        return MANIFEST

    def stored(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        pieces, axis = list(self._pieces(name, part, start, stop)), part.axis or 0
        how, is_table = pieces[0][0].how, name == self._facts.family.embedding
        if not how.bits:
            return np.concatenate([self._rows(*piece) for piece in pieces], axis)
        if how.bits == BFLOAT or is_table and how.is_given:  # which float32 holds as they are
            rows = np.concatenate([self._unpacked(*piece) for piece in pieces], axis)
            if is_table:
                return _bfloats_of(rows) if how.bits == BFLOAT else rows
            return kernels().pack(rows, how.bits, how.block)
        integers = [self._integers(*piece) for piece in pieces]
        values, scales = (np.concatenate(arrays, axis) for arrays in zip(*integers, strict=True))
        if is_table:
            return joined(values, scales.astype(np.float16))
        return kernels().pack_values(values, scales, how.bits, how.block)

    def slice_of(self, name: str) -> Slice | None:
        """Of one rank."""
        return self._slices[name][0] if name in self._slices else None

    def how_of(self, name: str) -> Quantisation:
        """Of the embedding too: how its rows are rounded."""
        piece, block = self._slices[name][0], block_of(self.embedding or "") if self._is_table(name) else None
        return Quantisation(TABLE_BITS, block) if block and not piece.matrix else piece.how

    def floats(self, name: str, rows: Range) -> np.ndarray:
        """float32 [rows, ...] of one rank's part, as they are multiplied with."""
        piece = self._slices[name][0]
        if piece.matrix:
            return self._unpacked(piece, rows, None)
        stored = self._rows(piece, rows, None)
        if not self._is_table(name) or self.embedding is None:
            return stored
        block = block_of(self.embedding)
        return unrounded(stored, self._facts.hidden, block) if block else widened(stored, self.embedding)

    def _is_table(self, name: str) -> bool:
        return name == self._facts.family.embedding

    def _pieces(self, name: str, part: Part, start: int, stop: int) -> Iterator[tuple[Slice, Range, Range | None]]:
        """What rows start..stop of a part are put together of: rows and columns of slices, None for
        all columns."""
        if (rows := part.along(0)) is not None:
            for piece, taken in self._cover(name, Range(rows.start + start, rows.start + stop)):
                yield piece, taken, None
        elif (columns := part.along(1)) is not None:
            for piece, taken in self._cover(name, columns):
                yield piece, Range(start, stop), taken
        else:
            yield self._slices[name][0], Range(start, stop), None

    def _cover(self, name: str, wanted: Range) -> Iterator[tuple[Slice, Range]]:
        """The slices that `wanted` is in, and what is taken of each, counted within it: where
        several have it, of the first."""
        at = wanted.start
        while at < wanted.stop:
            piece = next((piece for piece in self._slices[name] if piece.owned.start <= at < piece.owned.stop), None)
            if piece is None:
                raise PackageError(f"{name}: nobody has {at} of {wanted}; is a rank of the package missing here?")
            first, end = piece.owned.start, min(piece.owned.stop, wanted.stop)
            yield piece, Range(at - first, end - first)
            at = end

    def _rows(self, piece: Slice, rows: Range, columns: Range | None) -> np.ndarray:
        width = math.prod(piece.shape[1:]) * np.dtype(piece.number).itemsize
        data = self._read(piece.file, piece.offset + rows.start * width, len(rows) * width)
        numbers = data.view(piece.number).reshape(len(rows), *piece.shape[1:])
        return numbers if columns is None else numbers[:, columns.start : columns.stop]

    def _unpacked(self, piece: Slice, rows: Range, columns: Range | None) -> np.ndarray:
        weights, inside = self._panels(piece, rows)
        return weights.unpack()[inside, _slice(columns)]

    def _integers(self, piece: Slice, rows: Range, columns: Range | None) -> tuple[np.ndarray, np.ndarray]:
        weights, inside = self._panels(piece, rows)
        values, scales = weights.integers()
        return values[inside, _slice(columns)], scales[inside, _slice(columns, piece.packed.block, piece.how.numbers)]

    def _panels(self, piece: Slice, rows: Range):
        """The packed panels that hold these rows, and where in them these are."""
        q = piece.packed
        first, last = rows.start // PANEL, -(-rows.stop // PANEL)
        panel_bytes = kernels().packed_bytes(PANEL, q.k, q.bits, q.block)
        data = self._read(piece.file, piece.offset + first * panel_bytes, (last - first) * panel_bytes)
        weights = kernels().Weights(data, min(last * PANEL, q.n) - first * PANEL, q.k, q.bits, q.block)
        return weights, slice(rows.start - first * PANEL, rows.stop - first * PANEL)

    def _read(self, file: Path, at: int, size: int) -> np.ndarray:
        """Bytes, where the kernels want them."""
        if file not in self._open:
            self._open[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        room = np.empty(size + ALIGNMENT, np.uint8)
        data = room[-room.ctypes.data % ALIGNMENT :][:size]
        read_at(self._open[file], data.data, at, file)
        self.bytes_read += size
        return data


def _slice(columns: Range | None, unit: int = 1, numbers: int = 1) -> slice:
    """`numbers`: how many stand there for each `unit` of columns."""
    if columns is None:
        return slice(None)
    return slice(columns.start // unit * numbers, columns.stop // unit * numbers)


def _as_table(how: Quantisation) -> str:
    """The type of an embedding that has what a matrix stored like this has: integers of fewer bits
    fit in 8, of blocks with nothing but a scale."""
    if how.is_given:
        return "F32"
    return {0: "F32", BFLOAT: "BF16"}.get(how.bits) or dtype_of(how.block)


def _bfloats_of(rows: np.ndarray) -> np.ndarray:
    return (rows.view(np.uint32) >> 16).astype(np.uint16)


def _slices_of(folder: Path, manifest: Manifest, rank: int) -> Iterator[tuple[str, Slice | None]]:
    """What the files of a rank hold, by the names of the weights; None for what is in ncnn's own
    layout."""
    shard, files, at = manifest.plan.shards[rank], WeightFiles.load(folder), 0
    spans = files.spans(folder)
    for layer in Param.load(folder / GRAPH).layers:
        parts = {name: _part(layer, name, shard, manifest.facts) for name in weights_of(layer)}
        if layer.type == QLINEAR:
            q = QLinear.of(layer)
            number = inside(spans, q.offset, q.bytes)
            assert number is not None, f"{layer.name} lies outside of the packed files, which were looked over"
            first, name = files.packed[number]
            yield from _of_linear(folder / name, first, q, parts)
            continue
        arrays = arrays_of(layer)
        if layer.type == GEMM and Quantisation.of_gemm(layer).bits:
            at += sum(array.total for array in arrays)
            yield from dict.fromkeys(parts).items()
            continue
        for (name, part), array in zip(parts.items(), arrays, strict=True):
            at += array.total
            yield name, Slice(part, folder / files.floats, at - array.bytes, array.shape)
    if files.embedding and len(shard.embed):
        kind = np.dtype(NUMPY_TYPES.get(manifest.dtype, np.uint8))
        width = stored_row(manifest.dtype, manifest.facts.hidden) // kind.itemsize
        shape = len(shard.embed), width
        table = Slice(Part(0, shard.embed), folder / files.embedding, 0, shape, kind.type)
        yield manifest.facts.family.embedding, table


def _of_linear(file: Path, first: int, q: QLinear, parts: dict[str, Part]) -> Iterator[tuple[str, Slice]]:
    """`first`: the offset that the file begins at."""
    (weight, part), *bias = parts.items()
    yield weight, Slice(part, file, (q.offset - first) * ALIGNMENT, (q.n, q.k), matrix=q)
    for name, part in bias:
        yield name, Slice(part, file, (q.bias - first) * ALIGNMENT, (q.n,))


def _part(layer: Layer, name: str, shard: Shard, facts: ModelFacts) -> Part:
    part = part_of(name, shard, facts) if facts.family.role_of(name) else None
    if part is None:
        raise PackageError(f"rank {shard.rank} has {name}, which its plan does not give it; copy the package again")
    return part
