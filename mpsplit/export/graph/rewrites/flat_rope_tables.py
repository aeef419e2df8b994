"""cos and sin reach RotaryEmbed as they come in.

The ExpandDims that torch's broadcasting needed is dropped: cos -> ExpandDims -> Split ->
RotaryEmbed becomes cos -> Split -> RotaryEmbed. ncnn reads one row a position either way.
"""

from __future__ import annotations

from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Layer, Param


def flat_rope_tables(param: Param, context: Context) -> Param:
    dropped = {layer.tops[0]: layer.bottoms[0] for layer in param.of_type("ExpandDims") if _only_rotary(param, layer)}
    kept = (layer for layer in param.layers if not (layer.type == "ExpandDims" and layer.tops[0] in dropped))
    return Param(tuple(layer.rename(dropped) for layer in kept))


def _only_rotary(param: Param, layer: Layer) -> bool:
    """Whether the layer feeds RotaryEmbed and nothing else, directly or through a Split."""
    for user in param.consumers(layer.tops[0]):
        users = [u for top in user.tops for u in param.consumers(top)] if user.type == "Split" else [user]
        if any(u.type != "RotaryEmbed" for u in users):
            return False
    return layer.bottoms[0] in ("cos", "sin")
