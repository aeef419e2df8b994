"""Linears become QLinear: the weights of every Gemm leave model.bin, packed, for quantised.bin. The last step of convert.

In: the final Param and its float32 .bin. Out: a Param with QLinear layers, a .bin of what is left, and the packed file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mpsplit.errors import ConvertError
from mpsplit.native import kernels
from mpsplit.package.param import Layer, Param
from mpsplit.package.quantisation import BLOCKS, LAYER, QLinear, Quantisation
from mpsplit.package.weights import PackedFile, gemm_shape, read_weights, write_weights
from mpsplit.progress import track


def quantise(param: Param, floats: Path, rest: Path, packed: Path, how: Quantisation) -> Param:
    weights = read_weights(param, floats)
    layers = []
    with PackedFile(packed) as file:
        for layer in track(param.layers, f"{how.bits} bits"):
            layers.append(_packed(layer, weights[layer.name], file, how) if layer.type == "Gemm" else layer)
    quantised = Param(tuple(layers))
    write_weights(quantised, weights, rest)
    return quantised


def _packed(layer: Layer, arrays: list[np.ndarray], file: PackedFile, how: Quantisation) -> Layer:
    n, k = gemm_shape(layer)
    if not how.fits(k):
        fitting = [block for block in BLOCKS if k % block == 0]
        remedy = (
            f"use --block {fitting[0]}"
            if fitting
            else "use --quant f32, or partition again so that each rank has a multiple of 32, as with fewer ranks a stage"
        )
        raise ConvertError(
            f"{layer.name} has {k} inputs on this rank, which are no multiple of the block of {how.block}; {remedy}"
        )
    matrix = kernels().pack(np.ascontiguousarray(arrays[0]), how.bits, how.block)
    offset = file.append(matrix)
    bias = file.append(arrays[1]) if len(arrays) > 1 else -1
    return replace(layer, type=LAYER, params=QLinear(n, k, how.bits, how.block, offset, matrix.nbytes, bias).params())
