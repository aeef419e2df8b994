"""The weights of a graph in files. In: a Param and its .bin, as ncnn lays it out. Out: arrays by layer, and what their weights are called.

A layer is named for the weights it owns, as Hugging Face calls them: the Gemm model.layers.0.mlp.up_proj has up_proj.weight. ncnn
reads the file of floats in the order of the .param; QLinear layers find their packed matrices by offset in other files (weight_files.py).
Invariant: the file of floats is read to its last byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package.files import mapped
from mpsplit.package.param import Layer, Param
from mpsplit.package.quantisation import LAYER as QLINEAR
from mpsplit.package.quantisation import QLinear

ALIGNMENT = 64  # bytes: packed matrices begin at multiples, as the kernels want them
FLOAT_BYTES = 4
PIECE = 32 << 20  # bytes of a write, a multiple of the largest page: so the page cache has the file in large pages
FLAG = np.zeros(1, np.uint32).tobytes()  # ncnn's mark of plain float32 before an array


def gemm_shape(layer: Layer) -> tuple[int, int]:
    """(n, k) of a Gemm whose B is the weight [n, k]."""
    return layer.number("8"), layer.number("9")


def weights_of(layer: Layer) -> tuple[str, ...]:
    """The names of the weights that a layer owns, in the order of its arrays."""
    if layer.type == "MemoryData":
        return (layer.name,)
    if layer.type == QLINEAR:
        return (f"{layer.name}.weight", f"{layer.name}.bias")[: 1 + (QLinear.of(layer).bias >= 0)]
    return tuple(f"{layer.name}.{kind}" for kind, _ in zip(("weight", "bias"), arrays_of(layer), strict=False))


def arrays_of(layer: Layer) -> list[tuple[tuple[int, ...], bool]]:
    """(shape, whether a flag stands before it) of the arrays that a layer owns in the .bin."""
    if layer.type == "Gemm":
        n, k = gemm_shape(layer)
        return [((n, k), True)] + ([((n,), True)] if layer.params.get("10") == "4" else [])
    if layer.type == "RMSNorm" and layer.params.get("2", "1") == "1":
        return [((layer.number("0"),), False)]
    if layer.type == "MemoryData":  # a bias that is added after the sum over the ranks
        return [(tuple(size for key in ("2", "11", "1", "0") if (size := layer.number(key, 0))), False)]
    return []


def weight_bytes(param: Param) -> int:
    """How long the .bin of a graph is."""
    return sum(
        len(FLAG) * flagged + _bytes(layer, shape) for layer in param.layers for shape, flagged in arrays_of(layer)
    )


def _bytes(layer: Layer, shape: tuple[int, ...]) -> int:
    """Of an array of float32, in numbers that cannot overflow."""
    if min(shape, default=1) < 0:
        raise PackageError(f"{layer.name!a} ({layer.type}) has weights of shape {shape}")
    return 4 * math.prod(shape)


def read_weights(param: Param, path: Path) -> dict[str, list[np.ndarray]]:
    """layer name -> its float32 arrays, mapped."""
    data, at, found = mapped(path, np.uint8), 0, {}
    if (needed := weight_bytes(param)) != len(data):
        raise PackageError(f"{path} has {len(data)} bytes, its .param accounts for {needed}; convert again")
    for layer in param.layers:
        for shape, flagged in arrays_of(layer):
            at += len(FLAG) * flagged
            size = _bytes(layer, shape)
            found.setdefault(layer.name, []).append(data[at : at + size].view(np.float32).reshape(shape))
            at += size
    return found


def write_plain(path: Path) -> BinaryIO:
    return open(path, "wb", buffering=0)


Create = Callable[[Path], BinaryIO]  # what makes the file: write_plain, or one that encrypts (sealed.Vault.creator)


def write_weights(param: Param, weights: dict[str, list[np.ndarray]], path: Path, create: Create | None = None) -> None:
    with create(path) if create else open(path, "wb") as file:
        for layer in param.layers:
            if owned := arrays_of(layer):
                for (_, flagged), array in zip(owned, weights[layer.name], strict=True):
                    file.write(FLAG * flagged + array.tobytes())


class PackedFile:
    """Writes arrays one after the other at aligned offsets, in units of the alignment: a file of packed matrices.

    It writes in large pieces: so the page cache has the file in large pages, which the first run finds there.
    """

    def __init__(self, path: Path, create: Create = write_plain):
        self.file = create(path)
        self.held = bytearray()
        self.written = 0

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(self, *failed) -> None:
        if failed[0] is None:
            self._write(len(self.held))
        self.file.__exit__(*failed)

    def append(self, array: np.ndarray) -> int:
        offset = (self.written + len(self.held)) // ALIGNMENT
        self.held += array.tobytes()
        self.held += bytes(-len(self.held) % ALIGNMENT)
        self._write(len(self.held) // PIECE * PIECE)
        return offset

    def _write(self, count: int) -> None:
        while count:
            done = self.file.write(memoryview(self.held)[:count])
            del self.held[:done]
            self.written, count = self.written + done, count - done
