"""The head starts from hidden_out: the Split between them goes, so that an engine can feed the head
the rows it wants.

add -> Split -> (hidden_out, x); norm(x) becomes add -> hidden_out; norm(hidden_out). Only the last
row of a prompt needs logits.
"""

from __future__ import annotations

from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Param


def head_from_hidden(param: Param, context: Context) -> Param:
    split = param.producer("hidden_out")
    if split.type != "Split":
        return param
    assert context.head and len(split.tops) == 2, f"hidden_out has other users than the head: {split}"
    one = dict.fromkeys((*split.bottoms, *split.tops), "hidden_out")
    return Param(tuple(layer.rename(one) for layer in param.layers if layer is not split))
