"""The weights of a graph in files.

In: a Param and its .bin, as ncnn lays it out. Out: arrays by layer, and what their weights are
called.

A layer is named for the weights it owns, as Hugging Face calls them: the Gemm
model.layers.0.mlp.up_proj has up_proj.weight. ncnn reads the file of floats in the order of the
.param; QLinear layers find their packed matrices by offset in other files (weight_files.py). A Gemm
in blocks has its integers, its bias, then its scales there. Invariant: the file of floats is read
to its last byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.quantisation import GEMM, QLinear, Quantisation
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.whole_files import mapped

ALIGNMENT = 64  # bytes: packed matrices begin at multiples, as the kernels want them
FLOAT_BYTES = 4
# bytes of a write, a multiple of the largest page: so the page cache has the file in large pages
PIECE = 32 << 20
FLAG = np.zeros(1, np.uint32).tobytes()  # ncnn's mark of plain float32 before an array


@dataclass(frozen=True)
class Owned:
    """An array of a layer in the .bin; `flagged`: whether a FLAG stands before it."""

    shape: tuple[int, ...]
    flagged: bool = False
    dtype: type = np.float32

    @property
    def bytes(self) -> int:
        """In numbers that cannot overflow."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @property
    def total(self) -> int:
        return len(FLAG) * self.flagged + self.bytes


def gemm_shape(layer: Layer) -> tuple[int, int]:
    """(n, k) of a Gemm whose B is the weight [n, k]."""
    return layer.number("8"), layer.number("9")


def weights_of(layer: Layer) -> tuple[str, ...]:
    """The names of the weights that a layer owns, in the order of its arrays."""
    if layer.type == "MemoryData":
        return (layer.name,)
    if layer.type == QLINEAR:
        return (f"{layer.name}.weight", f"{layer.name}.bias")[: 1 + (QLinear.of(layer).bias >= 0)]
    return (f"{layer.name}.weight",) * bool(arrays_of(layer)) + (f"{layer.name}.bias",) * has_bias(layer)


def has_bias(layer: Layer) -> bool:
    """Of a Gemm."""
    return layer.type == GEMM and layer.params.get("10") == "4"


def arrays_of(layer: Layer) -> list[Owned]:
    """The arrays that a layer owns in the .bin, in order."""
    if layer.type == GEMM:
        n, k = gemm_shape(layer)
        bias, stored = [Owned((n,), flagged=True)] * has_bias(layer), Quantisation.of_gemm(layer)
        if not stored.bits:
            return [Owned((n, k), flagged=True), *bias]
        return [Owned((n, k * stored.bits // 8), dtype=np.uint8), *bias, Owned((n, k // stored.block))]
    if layer.type == "RMSNorm" and layer.params.get("2", "1") == "1":
        return [Owned((layer.number("0"),))]
    if layer.type == "MemoryData":  # a bias that is added after the sum over the ranks
        return [Owned(tuple(size for key in ("2", "11", "1", "0") if (size := layer.number(key, 0))))]
    return []


def weight_bytes(param: Param) -> int:
    """How long the .bin of a graph is."""
    total = 0
    for layer in param.layers:
        for array in arrays_of(layer):
            if min(array.shape, default=1) < 0:
                raise PackageError(f"{layer.name!a} ({layer.type}) has weights of shape {array.shape}")
            total += array.total
    return total


def read_weights(param: Param, path: Path) -> dict[str, list[np.ndarray]]:
    """layer name -> its arrays, mapped."""
    data, at = mapped(path, np.uint8), 0
    weights: dict[str, list[np.ndarray]] = {}
    if (needed := weight_bytes(param)) != len(data):
        raise PackageError(f"{path} has {len(data)} bytes, its .param accounts for {needed}; convert again")
    for layer in param.layers:
        for array in arrays_of(layer):
            at += array.total
            numbers: np.ndarray = data[at - array.bytes : at].view(array.dtype).reshape(array.shape)
            weights.setdefault(layer.name, []).append(numbers)
    return weights


class Written(Protocol):
    """A file while it is written: a plain one, or one that encrypts (sealed/vault.py)."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def write(self, data: bytes | bytearray | memoryview, /) -> int | None: ...


def write_plain(path: Path) -> Written:
    return open(path, "wb", buffering=0)


# what makes the file: write_plain, or one that encrypts (sealed.Vault.creator)
Create = Callable[[Path], Written]


def write_weights(param: Param, weights: dict[str, list[np.ndarray]], path: Path) -> None:
    with open(path, "wb") as file:
        for layer in param.layers:
            if owned := arrays_of(layer):
                for kind, array in zip(owned, weights[layer.name], strict=True):
                    file.write(FLAG * kind.flagged + array.tobytes())


class PackedFile:
    """Writes arrays one after the other at aligned offsets, in units of the alignment: a file of
    packed matrices.

    It writes in large pieces: so the page cache has the file in large pages, which the first run
    finds there.
    """

    def __init__(self, path: Path, create: Create = write_plain):
        self.file = create(path)
        self.held = bytearray()
        self.written = 0

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write(len(self.held))
        self.file.__exit__(kind, wrong, trace)

    def append(self, array: np.ndarray) -> int:
        offset = (self.written + len(self.held)) // ALIGNMENT
        self.held += array.tobytes()
        self.held += bytes(-len(self.held) % ALIGNMENT)
        self._write(len(self.held) // PIECE * PIECE)
        return offset

    def _write(self, count: int) -> None:
        while count:
            done = self.file.write(memoryview(self.held)[:count]) or 0
            del self.held[:done]
            self.written, count = self.written + done, count - done
