"""Linears become QLinear: the weights of every Gemm leave model.bin, packed, for quantised.bin. The last rewrite of a graph.

In: the final Param and how to store. Out: a Param with QLinear layers. Where each matrix will lie follows from the shapes before it, so
no weight is needed to know it.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.native import kernels
from mpsplit.package.param import Layer, Param
from mpsplit.package.quantisation import BLOCKS, LAYER, QLinear, Quantisation
from mpsplit.package.recipe import Recipe
from mpsplit.package.weights import ALIGNMENT, FLOAT_BYTES, arrays_of, gemm_shape


def quantise(param: Param, recipe: Recipe) -> Param:
    layers, end = [], 0
    for layer in param.layers:
        how = recipe.kind_of(f"{layer.name}.weight")
        if layer.type == "Gemm" and how.bits:
            layer, end = _packed(layer, end, how)
        layers.append(layer)
    return Param(tuple(layers))


def _packed(layer: Layer, offset: int, how: Quantisation) -> tuple[Layer, int]:
    """The QLinear whose matrix begins at `offset`, and where the next one does; both in units of the alignment."""
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
    size = kernels().packed_bytes(n, k, how.bits, how.block)
    end = offset + -(-size // ALIGNMENT)
    has_bias = len(arrays_of(layer)) > 1
    params = QLinear(n, k, how.bits, how.block, offset, size, end if has_bias else -1).params()
    return replace(layer, type=LAYER, params=params), end + has_bias * -(-n * FLOAT_BYTES // ALIGNMENT)
