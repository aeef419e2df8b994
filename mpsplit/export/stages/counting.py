"""The captured graph as numbers: operations, bytes, who reads what.

In: a Capture. Out: a CountedGraph (plan/stages/counted_graph.py).

Invariant: a multiplication and an addition are two operations, as everywhere in plan/. What only
looks at a value in another way takes none. Lengths that grow are counted at a usual one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from torch import fx

from mpsplit.export.stages.captured import Capture
from mpsplit.export.stages.stage_program import sized
from mpsplit.plan.stages.counted_graph import CountedGraph, Node

USUAL = 128  # tokens
aten = torch.ops.aten
LOOKS = (
    "view reshape transpose permute expand unsqueeze squeeze select slice split split_with_sizes chunk flatten t alias"
    " unflatten unbind detach _unsafe_view"
)
VIEWS = {getitem, *(getattr(aten, name) for name in LOOKS.split())}
EACH = {aten.layer_norm: 8, aten.batch_norm: 4, aten.group_norm: 8, aten.softmax: 5, aten.gelu: 10, aten.tanh: 8}
NOTHING_READ = {aten.embedding, aten.index_select}  # of a table, some rows


def counted(capture: Capture) -> CountedGraph:
    nodes = [node for node in capture.graph.graph.nodes if node.op == "call_function" and not _is_size(node)]
    weights = {}
    for node, name in capture.weights.items():
        weights[name] = 4 * getattr(capture.graph, str(capture.node(node).target)).numel()
    placeholders = capture.graph.graph.find_nodes(op="placeholder")
    return CountedGraph(
        inputs={node.name: _bytes(node.meta["val"]) for node in placeholders},
        nodes=tuple(_counted(node, capture) for node in nodes),
        outputs=tuple(capture.outputs.values()),
        weights=weights,
        made=frozenset(capture.made),
    )


def _counted(node: fx.Node, capture: Capture) -> Node:
    given = [n for n in node.all_input_nodes if not _is_size(n)]
    attributes = [n for n in given if n.op == "get_attr"]
    size = _bytes(node.meta["val"])
    packet = _packet(node)
    moved = 0 if packet in VIEWS else size + sum(_bytes(n.meta["val"]) for n in given if packet not in NOTHING_READ)
    return Node(
        name=node.name,
        module=module_of(node),
        reads=tuple(n.name for n in given if n.op != "get_attr"),
        weights=tuple(capture.weights[n.name] for n in attributes if n.name in capture.weights),
        flops=_flops(node, packet),
        bytes=size,
        moved=moved,
        constants=tuple(n.name for n in attributes if n.name not in capture.weights),
        splits=not isinstance(node.meta["val"], torch.Tensor),
    )


def module_of(node: fx.Node) -> str:
    """The path of the innermost module that it was called in."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(list(stack.values()))), "")


def _packet(node: fx.Node) -> Any:
    return node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else node.target


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return math.prod(sized(value.shape, USUAL)) * value.dtype.itemsize
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _shape(value: Any) -> tuple[int, ...]:
    return sized(value.meta["val"].shape, USUAL)


def _linear(node: fx.Node, out: int) -> int:
    return 2 * out * _shape(node.args[0])[-1]


def _addmm(node: fx.Node, out: int) -> int:
    return 2 * out * _shape(node.args[1])[-1]


def _convolution(node: fx.Node, out: int) -> int:
    return 2 * out * math.prod(_shape(node.args[1])[1:])


def _attention(node: fx.Node, out: int) -> int:
    return 4 * out * _shape(node.args[1])[-2]


FLOPS: dict[Any, Callable[[fx.Node, int], int]] = {
    aten.linear: _linear,
    aten.matmul: _linear,
    aten.mm: _linear,
    aten.bmm: _linear,
    aten.addmm: _addmm,
    aten.conv1d: _convolution,
    aten.conv2d: _convolution,
    aten.convolution: _convolution,
    aten.scaled_dot_product_attention: _attention,
}


def _flops(node: fx.Node, packet: Any) -> int:
    value = node.meta["val"]
    if packet in VIEWS or not isinstance(value, torch.Tensor):
        return 0
    out = math.prod(_shape(node))
    return FLOPS[packet](node, out) if packet in FLOPS else EACH.get(packet, 1) * out
