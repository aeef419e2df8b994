"""Layers are named for the weights they own.

In: pnnx's .param and .bin of a miniature. Out: the Param with Hugging Face's names.

pnnx forgets what a weight was called, and orders them as it likes; but a miniature's weights are
random numbers, so they are known again by their content. Invariant: each array has one name, and
every weight of the stage has its array.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mpsplit.errors import ConvertError
from mpsplit.export.trace.miniature import fingerprint
from mpsplit.export.trace.trace_structure import Shapes
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import read_weights, weights_of


def named_weights(param: Param, path: Path, small: Shapes) -> Param:
    known = {fingerprint(name, shape).tobytes(): name for name, shape in small.items()}
    assert len(known) == len(small), "two weights have one fingerprint"
    arrays = read_weights(param, path)
    named = Param(
        tuple(_named(layer, arrays[layer.name], known) if layer.name in arrays else layer for layer in param.layers)
    )
    owned = {name for layer in named.layers for name in weights_of(layer)}
    if lost := sorted(set(small) - owned):
        raise ConvertError(f"pnnx left {len(lost)} of {len(small)} weights out of its graph: {', '.join(lost[:3])}")
    return named


def _named(layer: Layer, arrays: list[np.ndarray], known: dict[bytes, str]) -> Layer:
    names = []
    for array in arrays:
        if (name := known.get(array.tobytes())) is None:
            raise ConvertError(
                f"{layer.name} has an array of {list(array.shape)} that is no weight of the model ({layer})"
            )
        names.append(name)
    renamed = replace(layer, name=names[0] if layer.type == "MemoryData" else names[0].removesuffix(".weight"))
    assert list(weights_of(renamed)) == names, f"{layer.name} owns {names}"
    return renamed
