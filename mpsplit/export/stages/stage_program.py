"""One stage's part of the captured graph, as a module of its own, and as TorchScript for pnnx.

In: a Capture, which nodes a stage has, and what it takes and gives. Out: a GraphModule, traced.

A size that grows is read from an input of the stage that has it. Weights are one number each, seen
as if it were many: the file is small, and convert fills in what the checkpoint has.

Invariant: the module reads its inputs and its own attributes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from mpsplit.errors import ConvertError
from mpsplit.export.stages.captured import Capture

aten = torch.ops.aten
METHODS = {"view": "view", "reshape": "reshape", "expand": "expand", "_unsafe_view": "reshape"}


def stage_module(
    capture: Capture, nodes: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
) -> fx.GraphModule:
    """`inputs`: values of other stages, of the model and made ones, by the names of their nodes."""
    return Extraction(capture, nodes, inputs, outputs).module()


class Extraction:
    def __init__(self, capture: Capture, nodes: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]):
        self.capture, self.outputs = capture, outputs
        self.old = {node.name: node for node in capture.graph.graph.nodes}
        self.nodes = [self.old[name] for name in nodes]
        self.graph, self.root = fx.Graph(), nn.Module()
        self.mapped: dict[fx.Node, Any] = {}
        self.sizes: dict[str, Any] = {}  # an expression -> the node that has it
        for name in inputs:
            self.mapped[self.old[name]] = self._copied(self.old[name], self.graph.placeholder(name))
        self.inputs = [self.old[name] for name in inputs]

    def module(self) -> fx.GraphModule:
        for node in self.nodes:
            self.mapped[node] = self._copied(node, self._rewritten(node))
        self.graph.output(tuple(self.mapped[self.old[name]] for name in self.outputs))
        return fx.GraphModule(self.root, self.graph)

    def _rewritten(self, node: fx.Node) -> fx.Node:
        """An operator whose sizes grow is called as a tensor's method: only so jit sees that they
        do."""
        grows = any(isinstance(given.meta.get("val"), torch.SymInt) for given in node.all_input_nodes)
        if node.op != "call_function" or not grows:
            return self.graph.node_copy(node, self._given)
        method = node.target._schema.name.removeprefix("aten::")
        if method not in METHODS:
            raise ConvertError(
                f"{node.name} computes {method} with a length that grows, which stages do not know; fix it with"
                " --length N"
            )
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._given)
        return self.graph.call_method(METHODS[method], args, kwargs)

    def _copied(self, old: fx.Node, new: fx.Node) -> fx.Node:
        new.meta = {"val": old.meta.get("val"), "nn_module_stack": old.meta.get("nn_module_stack")}
        return new

    def _given(self, node: fx.Node) -> Any:
        if node in self.mapped:
            return self.mapped[node]
        if node.op == "get_attr":
            return self._attribute(node)
        if isinstance(node.meta.get("val"), torch.SymInt):
            return self._size(node)
        raise ConvertError(f"the stage is not closed: it reads {node.name}, which is neither its input nor its own")

    def _attribute(self, node: fx.Node) -> fx.Node:
        tensor = getattr(self.capture.graph, str(node.target))
        name = self.capture.weights.get(node.name)
        path = weight_name(name) if name else node.name
        if name:  # one number, seen as many
            held = torch.zeros((), dtype=tensor.dtype).expand(self._held_shape(node, tensor.shape))
            self.root.register_parameter(path, nn.Parameter(held, requires_grad=False))
        else:
            self.root.register_buffer(path, tensor)
        self.mapped[node] = self._copied(node, self.graph.get_attr(path))
        return self.mapped[node]

    def _held_shape(self, node: fx.Node, shape: torch.Size) -> torch.Size:
        return shape

    def _size(self, node: fx.Node) -> Any:
        """Of a size that grows: from an input that has it, else as it was computed."""
        wanted = str(node.meta["val"])
        if wanted not in self.sizes:
            for given in self.inputs:
                axes = [axis for axis, size in enumerate(given.meta["val"].shape) if str(size) == wanted]
                if axes:
                    self.sizes[wanted] = self.graph.call_method("size", (self.mapped[given], axes[0]))
                    break
            else:
                if node.target is aten.sym_size.int:
                    raise ConvertError(f"the stage is not closed: none of its inputs has the size {wanted}")
                self.sizes[wanted] = self.graph.node_copy(node, self._given)
        return self.sizes[wanted]


def weight_name(name: str) -> str:
    """Of an attribute, which cannot have dots."""
    return f"w_{name.replace('.', '__')}"


def sized(shape: Sequence[Any], length: int) -> tuple[int, ...]:
    """The shape as whole numbers, where the length that grows is this one."""
    return tuple(_number(size, length) for size in shape)


def _number(size: Any, length: int) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, length)))


def example_inputs(module: fx.GraphModule, length: int) -> list[torch.Tensor]:
    """Zeros of the shapes and types of its inputs."""
    values = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    return [torch.zeros(sized(value.shape, length), dtype=value.dtype) for value in values]


def save_script(module: fx.GraphModule, length: int, path: Path) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(module, example_inputs(module, length), check_trace=False)
        traced.save(str(path))
