"""Attention remembers: each SDPA takes the K and V of the past and gives them back longer.

That is ncnn's parameter 7=1: SDPA(q, k, v, mask) -> out becomes SDPA(q, k, v, mask, past_k<i>,
past_v<i>) -> out, k<i>, v<i>, with i counted from 0 in the rank.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Layer, Param

KEEP_CACHE = {"7": "1"}
HAS_MASK = "5"


def kv_cache(param: Param, context: Context) -> Param:
    attentions = param.of_type("SDPA")
    if len(attentions) != context.attentions:
        raise ConvertError(
            f"pnnx recognised {len(attentions)} attentions, the rank has {context.attentions} layers with heads; KV"
            " caches need all of them"
        )
    inputs = tuple(
        Layer("Input", blob, (), (blob,)) for i in range(context.attentions) for blob in (f"past_k{i}", f"past_v{i}")
    )
    number = {layer.name: i for i, layer in enumerate(attentions)}
    given = tuple(param.of_type("Input"))
    changed = (_remember(layer, number[layer.name]) if layer.type == "SDPA" else layer for layer in param.layers)
    return Param(given + inputs + tuple(layer for layer in changed if layer.type != "Input"))


def _remember(layer: Layer, i: int) -> Layer:
    if layer.params.get(HAS_MASK) != "1" or len(layer.bottoms) != 4:
        raise ConvertError(
            f"{layer.name} has {len(layer.bottoms)} inputs and no mask; expected q, k, v and mask ({layer})"
        )
    return replace(
        layer,
        bottoms=(*layer.bottoms, f"past_k{i}", f"past_v{i}"),
        tops=(*layer.tops, f"k{i}", f"v{i}"),
        params=layer.params | KEEP_CACHE,
    )
