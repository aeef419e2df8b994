"""The captured graph as the TorchScript file that pnnx reads.

In: a GraphModule. Out: NAME-R.pt.

Two forms, for two kinds of pnnx. *module*: each collective becomes a leaf module, which the pnnx of
PyPI keeps whole when its class is named in `moduleop=`. *operator*: they stay mpi_extensions
operators, for a pnnx with `customop=`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import fx, nn

from mpsplit.export.trace.capture import zeros
from mpsplit.export.trace.operators import collective_of
from mpsplit.export.trace.trace_inputs import Example
from mpsplit.package.collectives import BY_OPERATOR, COLLECTIVES, NAMESPACE

FORMS = ("module", "operator")


def _stand_in(layer: str) -> type[nn.Module]:
    """A leaf module of the layer's name; its body only has to keep the shape (or widen it, for
    all_gather).

    pnnx does not find a class whose module has "torch" in its name, so it must not seem to live in
    this file.
    """

    def forward(self, x):
        return torch.cat([x] * self.copies, dim=-1) if self.copies > 1 else x + 0

    def init(self, copies: int):
        nn.Module.__init__(self)
        self.copies = copies

    return type(layer, (nn.Module,), {"__init__": init, "forward": forward, "__module__": NAMESPACE})


STAND_INS = {c.operator: _stand_in(c.layer) for c in COLLECTIVES}


def with_leaf_modules(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The same graph with each collective as a module of its layer's class."""
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    root = nn.Module()
    for name, child in graph_module.named_children():
        root.add_module(name, child)
    for node in graph_module.graph.nodes:
        operator = collective_of(node.target)
        if operator is None:
            mapped[node] = graph.node_copy(node, mapped.__getitem__)
            continue
        name = f"{operator}_{len(list(root.children()))}"
        arguments = dict(zip(BY_OPERATOR[operator].arguments, node.args[1:], strict=True))
        root.add_module(name, STAND_INS[operator](arguments.get("size", 1)))
        mapped[node] = graph.call_module(name, (mapped[node.args[0]],))
    return fx.GraphModule(root, graph)


def save(graph_module: fx.GraphModule, example: Example, path: Path, form: str) -> None:
    assert form in FORMS
    traced = with_leaf_modules(graph_module) if form == "module" else graph_module
    with torch.no_grad():
        torch.jit.trace(traced, zeros(example), check_trace=False).save(str(path))
