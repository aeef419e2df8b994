"""Nothing may remember the length that was traced.

A Reshape to a fixed shape that holds it would be right for that length only. pnnx writes lengths as
expressions ("48,0c") when it saw two of them change. This makes sure of it, for every Reshape.
"""

from __future__ import annotations

from mpsplit.errors import ConvertError
from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Param

EXPRESSION = "6"
SIZES = ("0", "1", "11", "2")  # w, h, d, c of a Reshape


def dynamic_length(param: Param, context: Context) -> Param:
    traced = {str(length) for length in context.lengths}
    for layer in param.of_type("Reshape"):
        sizes = layer.params.get(EXPRESSION, "").strip('"').split(",") + [layer.params.get(key, "") for key in SIZES]
        if fixed := traced.intersection(sizes):
            raise ConvertError(
                f"pnnx fixed the length {fixed.pop()} into {layer.name} ({layer}); it must grow with the prompt"
            )
    return param
