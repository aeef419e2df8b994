"""The head starts from hidden_out, so that an engine can feed it the rows it wants.

The Split between them goes: add -> Split -> (hidden_out, x); norm(x) becomes add -> hidden_out;
norm(hidden_out). Only the last row of a prompt needs logits.
"""

from __future__ import annotations

from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Param


def head_from_hidden(param: Param, context: Context) -> Param:
    split = param.producer("hidden_out")
    if split.type != "Split":
        return param
    assert context.head and len(split.tops) == 2, f"hidden_out has other users than the head: {split}"
    names = dict.fromkeys((*split.bottoms, *split.tops), "hidden_out")
    return Param(tuple(layer.rename(names) for layer in param.layers if layer is not split))
