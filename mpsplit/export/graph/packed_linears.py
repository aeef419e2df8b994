"""Linears become QLinear: the weights of every Gemm leave the file of floats, packed, for others.

In: the final Param and how to store. Out: a Param with QLinear layers; it is the last rewrite of a
graph. Every decoder layer has a file of its own, and so has what stands outside of them. In ncnn's
own layout a Gemm stays a Gemm, and its weights stay in the file of floats.

Invariant: where a matrix will lie follows from the shapes before it, so no weight is needed to know
it.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.families import Family
from mpsplit.native.cpp import kernels
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import gemm_shape, has_bias
from mpsplit.package.stored.quantisation import BLOCKS, GEMM, LAYER, TERM, QLinear, Quantisation
from mpsplit.package.stored.recipe import NCNN, Recipe
from mpsplit.package.stored.weight_files import PackedPlaces


def quantise(param: Param, recipe: Recipe, family: Family) -> Param:
    layers, places = [], PackedPlaces()
    for layer in param.layers:
        how = recipe.kind_of(f"{layer.name}.weight")
        if layer.type == GEMM and how.bits:
            _check_fits(layer, how)
            if recipe.layout == NCNN:
                layer = replace(layer, params=layer.params | {TERM: str(how.term)})
            else:
                layer = _packed(layer, how, places, family.layer_of(layer.name))
        layers.append(layer)
    return Param(tuple(layers))


def _check_fits(layer: Layer, how: Quantisation) -> None:
    _, k = gemm_shape(layer)
    if not how.fits(k):
        fitting = [block for block in BLOCKS if k % block == 0]
        remedy = (
            f"use --block {fitting[0]}"
            if fitting
            else (
                "use --quant f32, or partition again so that each rank has a multiple of 32, as with fewer ranks a"
                " stage"
            )
        )
        raise ConvertError(
            f"{layer.name} has {k} inputs on this rank, which are no multiple of the block of {how.block}; {remedy}"
        )


def _packed(layer: Layer, how: Quantisation, places: PackedPlaces, number: int | None) -> Layer:
    """The QLinear of a Gemm of the decoder layer of this number."""
    n, k = gemm_shape(layer)
    size = kernels().packed_bytes(n, k, how.bits, how.block)
    linear = QLinear(n, k, how.bits, how.block, 0, size, 0 if has_bias(layer) else -1)
    return replace(layer, type=LAYER, params=places.place(linear, number).params())
