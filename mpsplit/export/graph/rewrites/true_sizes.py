"""Layers get the sizes of the weights that they are named for: what was converted is a miniature.

Only weights tell sizes; nothing is guessed from numbers. A Reshape of a constant is as long as the
constant.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import weights_of

SIZES = {  # layer type -> its parameters that say how large its first weight is
    "Gemm": ("8", "9"),
    "RMSNorm": ("0",),
    "MemoryData": ("0",),
}


def true_sizes(param: Param, context: Context) -> Param:
    constants = {layer.tops[0]: layer for layer in param.of_type("MemoryData")}
    return Param(tuple(_sized(layer, constants, context) for layer in param.layers))


def _sized(layer: Layer, constants: dict[str, Layer], context: Context) -> Layer:
    source = layer
    if layer.type == "Reshape" and layer.bottoms[0] in constants:
        source = constants[layer.bottoms[0]]
    names = weights_of(source)
    if not names:
        return layer
    shape = context.shapes[names[0]]
    keys = SIZES[source.type]
    assert len(keys) == len(shape), f"{names[0]} of {shape} is not a {layer.type}'s"
    return replace(layer, params=layer.params | dict(zip(keys, map(str, shape), strict=True)))
