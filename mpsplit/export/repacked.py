"""Weights out of a package, for another plan. In: the files of its ranks. Out: any part of any weight, in the bits that are there.

Integers and scales are taken out of packed matrices, cut and joined, and packed again: nothing becomes float and is rounded anew.
Invariant: where no block is split (blocks.py), what comes out is what the package's own conversion would have stored for the part.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.export.checkpoint import read_at
from mpsplit.export.contents import PANEL
from mpsplit.export.encode import Encoder
from mpsplit.native import kernels
from mpsplit.package.embedding import stored_row
from mpsplit.package.files import NUMPY_TYPES
from mpsplit.package.manifest import EMBED, GRAPH, QUANTISED, WEIGHTS, Manifest, rank_folder
from mpsplit.package.param import Layer, Param
from mpsplit.package.quantisation import BFLOAT, FLOAT, QLinear, Quantisation
from mpsplit.package.quantisation import LAYER as QLINEAR
from mpsplit.package.recipe import Recipe, Rule
from mpsplit.package.weights import ALIGNMENT, FLAG, FLOAT_BYTES, arrays_of, weights_of
from mpsplit.plan.cuts import CUTS, EMBEDDING, Part, linears_of, module_of, part_of
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Range, Shard

FOREIGN = "18"  # of a Gemm: ncnn's own blocks


@dataclass(frozen=True)
class Slice:
    """One rank's part of a weight: rows of numbers, or a packed matrix, at an offset."""

    part: Part
    file: Path
    offset: int
    shape: tuple[int, ...]
    type: type = np.float32
    matrix: QLinear | None = None

    @property
    def how(self) -> Quantisation:
        return Quantisation(self.matrix.bits, self.matrix.block) if self.matrix else FLOAT


def place_of(folder: Path, matrix: QLinear) -> tuple[Path, int]:
    """The file that has a packed matrix of a rank, and where in it."""
    return folder / QUANTISED, matrix.offset * ALIGNMENT


class Repacked:
    """Weights of some ranks of a package, in the place of a Checkpoint."""

    def __init__(self, package: Path, manifest: Manifest, ranks: Iterable[int]):
        self.bytes_read = 0
        self._facts, self._dtype = manifest.facts, manifest.dtype
        self._open: dict[Path, int] = {}
        self._slices: dict[str, list[Slice]] = defaultdict(list)
        for rank in ranks:
            for name, held in _slices_of(rank_folder(package, rank), manifest, rank):
                part, shape = held.part, held.shape
                if part.axis is not None and shape[part.axis] != len(part.range):
                    raise PackageError(
                        f"rank {rank} has {name} of shape {list(shape)}, its plan says {part.range}; convert the model again"
                    )
                self._slices[name].append(held)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    @property
    def recipe(self) -> Recipe:
        """How each linear is stored. The embedding is not in it: it stays as it is."""
        kinds: dict[str, Quantisation] = {}
        for name in filter(self._slices.__contains__, linears_of(self._facts)):
            found = {held.how for held in self._slices[name]}
            if len(found) > 1:
                raise PackageError(
                    f"{name} is stored in {len(found)} ways by the ranks of one package; convert it again"
                )
            kinds[name] = found.pop()
        default = Counter(kinds.values()).most_common(1)[0][0] if kinds else FLOAT
        others = {name: how for name, how in kinds.items() if how != default}
        return Recipe(default, tuple(Rule(name.removesuffix(".weight"), how) for name, how in others.items()))

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        """A tied head has a matrix of its own here."""
        return weight

    def type_of(self, name: str) -> str:
        assert name == EMBEDDING
        return self._dtype

    def stored(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        pieces = [self._rows(*piece) for piece in self._pieces(name, part, start, stop)]
        return np.concatenate(pieces, axis=part.axis or 0)

    floats = stored  # what is not packed has been float32 since it was converted

    def packed(self, name: str, part: Part, encoder: Encoder, start: int, stop: int) -> np.ndarray:
        how, pieces = encoder.how, list(self._pieces(name, part, start, stop))
        if how.bits == BFLOAT:  # which float32 holds as they are
            rows = np.concatenate([self._bfloats(*piece) for piece in pieces], axis=part.axis)
            return kernels().pack(rows, how.bits, how.block)
        found = [self._integers(*piece) for piece in pieces]
        values, scales = (np.concatenate(arrays, axis=part.axis) for arrays in zip(*found, strict=True))
        return kernels().pack_values(values, scales, how.bits, how.block)

    def _pieces(self, name: str, part: Part, start: int, stop: int) -> Iterator[tuple[Slice, Range, Range | None]]:
        """What rows start..stop of a part are put together of: rows and columns of slices, None for all columns."""
        if part.axis is None:
            yield self._slices[name][0], Range(start, stop), None
        elif part.axis == 0:
            first = part.range.start
            for held, own in self._cover(name, Range(first + start, first + stop)):
                yield held, own, None
        else:
            for held, own in self._cover(name, part.range):
                yield held, Range(start, stop), own

    def _cover(self, name: str, wanted: Range) -> Iterator[tuple[Slice, Range]]:
        """The slices that `wanted` is in, and what is taken of each, counted within it: where several have it, of the first."""
        at = wanted.start
        while at < wanted.stop:
            held = next(
                (held for held in self._slices[name] if held.part.range.start <= at < held.part.range.stop), None
            )
            if held is None:
                raise PackageError(f"{name}: nobody has {at} of {wanted}; is a rank of the package missing here?")
            own, end = held.part.range, min(held.part.range.stop, wanted.stop)
            yield held, Range(at - own.start, end - own.start)
            at = end

    def _rows(self, held: Slice, rows: Range, columns: Range | None) -> np.ndarray:
        width = math.prod(held.shape[1:]) * np.dtype(held.type).itemsize
        data = self._read(held.file, held.offset + rows.start * width, len(rows) * width)
        found = data.view(held.type).reshape(len(rows), *held.shape[1:])
        return found if columns is None else found[:, columns.start : columns.stop]

    def _bfloats(self, held: Slice, rows: Range, columns: Range | None) -> np.ndarray:
        weights, inside = self._panels(held, rows)
        return weights.unpack()[inside, _slice(columns)]

    def _integers(self, held: Slice, rows: Range, columns: Range | None) -> tuple[np.ndarray, np.ndarray]:
        weights, inside = self._panels(held, rows)
        values, scales = weights.integers()
        return values[inside, _slice(columns)], scales[inside, _slice(columns, held.matrix.block)]

    def _panels(self, held: Slice, rows: Range):
        """The packed panels that hold these rows, and where in them these are."""
        q = held.matrix
        first, last = rows.start // PANEL, -(-rows.stop // PANEL)
        each = kernels().packed_bytes(PANEL, q.k, q.bits, q.block)
        data = self._read(held.file, held.offset + first * each, (last - first) * each)
        weights = kernels().Weights(data, min(last * PANEL, q.n) - first * PANEL, q.k, q.bits, q.block)
        return weights, slice(rows.start - first * PANEL, rows.stop - first * PANEL)

    def _read(self, file: Path, at: int, size: int) -> np.ndarray:
        """Bytes, where the kernels want them."""
        if file not in self._open:
            self._open[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        room = np.empty(size + ALIGNMENT, np.uint8)
        data = room[-room.ctypes.data % ALIGNMENT :][:size]
        read_at(self._open[file], memoryview(data), at, file)
        self.bytes_read += size
        return data


def _slice(columns: Range | None, unit: int = 1) -> slice:
    return slice(None) if columns is None else slice(columns.start // unit, columns.stop // unit)


def _slices_of(folder: Path, manifest: Manifest, rank: int) -> Iterator[tuple[str, Slice]]:
    """What the files of a rank hold, by the names of the weights."""
    shard, at = manifest.plan.shards[rank], 0
    for layer in Param.load(folder / GRAPH).layers:
        parts = {name: _part(layer, name, shard, manifest.facts) for name in weights_of(layer)}
        if layer.type == QLINEAR:
            yield from _of_linear(folder, QLinear.of(layer), parts)
            continue
        for (name, part), (shape, flagged) in zip(parts.items(), arrays_of(layer), strict=True):
            at += len(FLAG) * flagged
            yield name, Slice(part, folder / WEIGHTS, at, shape)
            at += FLOAT_BYTES * math.prod(shape)
    if len(shard.embed):
        kind = np.dtype(NUMPY_TYPES.get(manifest.dtype, np.uint8))
        width = stored_row(manifest.dtype, manifest.facts.hidden) // kind.itemsize
        yield EMBEDDING, Slice(Part(0, shard.embed), folder / EMBED, 0, (len(shard.embed), width), kind.type)


def _of_linear(folder: Path, q: QLinear, parts: dict[str, Part]) -> Iterator[tuple[str, Slice]]:
    (weight, part), *bias = parts.items()
    yield weight, Slice(part, *place_of(folder, q), (q.n, q.k), matrix=q)
    for name, part in bias:
        yield name, Slice(part, folder / QUANTISED, q.bias * ALIGNMENT, (q.n,))


def _part(layer: Layer, name: str, shard: Shard, facts: ModelFacts) -> Part:
    if layer.params.get(FOREIGN, "0") != "0" and layer.type == "Gemm":
        raise PackageError(
            f"{layer.name} is stored in ncnn's own blocks, which stay as they were cut; convert the model again"
        )
    part = part_of(name, shard, facts) if module_of(name) in CUTS else None
    if part is None:
        raise PackageError(f"rank {shard.rank} has {name}, which its plan does not give it; copy the package again")
    return part
