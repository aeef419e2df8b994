"""A stage's graph as pnnx wrote it, its linears packed.

In: a Param, its arrays, a recipe. Out: the same with QLinear layers, what is left in the file of
floats, the bytes of the packed matrices, and the arrays of the unpacked graph as they say them.

Layers are known by what is in them: a matrix of the model gives its layer the model's name, so that
a pattern of --quant-for names it. MultiHeadAttention, which has its matrices inside, comes apart
into linears and SDPA where they are packed.

Invariant: what is not packed stays as it was. A linear whose inputs are no multiple of the block
stays in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mpsplit.export.weights.encode import encoded
from mpsplit.native.cpp import kernels
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stages.stage_arrays import Arrays
from mpsplit.package.stored.float_weights import ALIGNMENT
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.quantisation import QLinear, Quantisation
from mpsplit.package.stored.recipe import Recipe

MHA, GEMM, INNER = "MultiHeadAttention", "Gemm", "InnerProduct"
PARTS = ("q", "k", "v", "out")  # of MultiHeadAttention, a matrix and a bias each


@dataclass
class Packing:
    """`names`: the model's name of a matrix, by its bytes. So far, `file`: packed matrices;
    `rounded`: arrays of the layers that have them, with the values that were packed."""

    arrays: Arrays
    names: Mapping[bytes, str]
    recipe: Recipe
    file: bytearray = field(default_factory=bytearray)
    rounded: Arrays = field(default_factory=dict)
    count: int = 0

    def how(self, matrix: np.ndarray, inputs: int, layer: str) -> Quantisation:
        """How it is stored: as the recipe says, where that fits."""
        name = self.names.get(matrix.tobytes(), f"{layer}.weight")
        how = self.recipe.kind_of(name)
        return how if how.fits(inputs) else Quantisation()

    def pack(self, matrix: np.ndarray, bias: np.ndarray | None, how: Quantisation, layer: str) -> dict[str, str]:
        """The parameters of the QLinear that has this matrix [n, k] of the layer."""
        n, k = matrix.shape
        data = encoded(matrix, how, self.recipe.scales)
        values = kernels().Weights(data, n, k, how.bits, how.block).unpack()
        self.rounded.setdefault(layer, []).extend([values.ravel(), *([] if bias is None else [bias])])
        offset, size = self._append(data)
        place = -1 if bias is None else self._append(bias.astype(np.float32))[0]
        self.count += 1
        return QLinear(n, k, how.bits, how.block, offset, size, place).params()

    def _append(self, data: np.ndarray) -> tuple[int, int]:
        """(where it begins, in units of the alignment, bytes)"""
        at, content = len(self.file) // ALIGNMENT, np.ascontiguousarray(data).tobytes()
        self.file += content + bytes(-len(content) % ALIGNMENT)
        return at, len(content)


def packed(param: Param, packing: Packing) -> Param:
    layers = [made for layer in param.layers for made in _apart(layer, packing)]
    return Param(tuple(_linear(layer, packing) for layer in layers))


def _linear(layer: Layer, packing: Packing) -> Layer:
    """A QLinear in the place of a layer that is one matrix, over rows."""
    if layer.type == GEMM and layer.params.get("5") == "1" and layer.params.get("3") == "1":
        n, k = layer.number("8"), layer.number("9")
    elif layer.type == INNER and "9" not in layer.params:  # an activation inside
        n, k = layer.number("0"), layer.number("2") // layer.number("0")
    else:
        return layer
    matrix, *bias = packing.arrays[layer.name]
    how = packing.how(matrix, k, layer.name)
    if not how.bits:
        return layer
    del packing.arrays[layer.name]
    params = packing.pack(matrix.reshape(n, k), bias[0] if bias else None, how, layer.name)
    return replace(layer, type=QLINEAR, params=params)


def _apart(layer: Layer, packing: Packing) -> list[Layer]:
    """MultiHeadAttention as linears and SDPA."""
    if layer.type != MHA:
        return [layer]
    arrays = packing.arrays[layer.name]
    hidden, heads, outputs = layer.number("0"), layer.number("1"), layer.number("2") // layer.number("0")
    inputs = dict(zip(PARTS, (outputs, layer.number("3", hidden), layer.number("4", hidden), hidden), strict=True))
    matrices = dict(zip(PARTS, zip(arrays[::2], arrays[1::2], strict=True), strict=True))
    if not all(packing.how(matrices[part][0], inputs[part], layer.name).bits for part in PARTS):
        return [layer]
    del packing.arrays[layer.name]
    masked = layer.params.get("5") == "1"
    blobs, mask = (layer.bottoms[:-1], layer.bottoms[-1:]) if masked else (layer.bottoms, ())
    name, dim = layer.name, hidden // heads
    out: list[Layer] = []
    if len(blobs) < 3:  # keys and values of one blob, or all three
        copies = tuple(f"{name}_{part}_in" for part in "qkv"[-3 if len(blobs) == 1 else -2 :])
        out.append(Layer("Split", f"{name}_split", (blobs[-1],), copies))
        blobs = (*blobs[:-1], *copies)

    def linear(part: str, source: str, target: str) -> Layer:
        matrix, bias = matrices[part]
        how = packing.how(matrix, inputs[part], name)
        rows = matrix.reshape(-1, inputs[part])
        return Layer(QLINEAR, f"{name}_{part}", (source,), (target,), packing.pack(rows, bias, how, name))

    turned = []
    for part, blob in zip("qkv", blobs, strict=True):
        flat, split, turned_blob = (f"{name}_{part}_{step}" for step in ("flat", "heads", "turned"))
        out.append(linear(part, blob, flat))
        out.append(Layer("Reshape", f"{name}_{part}_reshape", (flat,), (split,), {"6": f'"{dim},{heads},0h"'}))
        out.append(Layer("Permute", f"{name}_{part}_permute", (split,), (turned_blob,), {"0": "2"}))
        turned.append(turned_blob)
    scale = layer.params.get("6", f"{1 / math.sqrt(dim):.9e}")
    attention = {"5": "1", "6": scale} if masked else {"6": scale}
    seen, back, joined = (f"{name}_{step}" for step in ("seen", "back", "joined"))
    return [
        *out,
        Layer("SDPA", name, (*turned, *mask), (seen,), attention),
        Layer("Permute", f"{name}_out_permute", (seen,), (back,), {"0": "2"}),
        Layer("Reshape", f"{name}_out_reshape", (back,), (joined,), {"6": f'"{hidden},0c"'}),
        linear("out", joined, layer.tops[0]),
    ]
