"""Inputs and outputs get their names.

in0..in3 become hidden, cos, sin and mask; out0 and out1 hidden_out and logits.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.export.trace.trace_inputs import INPUTS
from mpsplit.package.param_text import Param


def named_blobs(param: Param, context: Context) -> Param:
    outputs = ("hidden_out", "logits") if context.head else ("hidden_out",)
    names = {f"in{i}": name for i, name in enumerate(INPUTS)} | {f"out{i}": name for i, name in enumerate(outputs)}
    blobs = {blob for layer in param.layers for blob in layer.tops}
    if missing := set(names) - blobs:
        raise ConvertError(
            f"pnnx left {', '.join(sorted(missing))} out of its graph; it has {len(param.layers)} layers"
        )
    renamed = (layer.rename(names) for layer in param.layers)
    return Param(tuple(replace(layer, name=layer.tops[0]) if layer.type == "Input" else layer for layer in renamed))
