"""Constants stand right before the first layer that reads them.

pnnx puts them all at the top, away from the decoder layer that they belong to.
"""

from __future__ import annotations

from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Layer, Param


def constants_where_read(param: Param, context: Context) -> Param:
    constants = {layer.tops[0]: layer for layer in param.of_type("MemoryData")}
    out: list[Layer] = []
    for layer in param.layers:
        if layer.type != "MemoryData":
            out += [constants.pop(blob) for blob in layer.bottoms if blob in constants]
            out.append(layer)
    assert not constants, f"nobody reads {', '.join(constants)}"
    return Param(tuple(out))
