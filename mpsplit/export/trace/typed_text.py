"""A captured graph as torch's text, with the type of each value behind its line.

In: a GraphModule whose nodes know their values, as those of dynamo and torch.export do. Out: text,
a node a line; graph/foreign/captured_view.py reads it.

Invariant: without what stands behind the lines, it is torch's own text. What has no type that
mpsplit/graph can write has none.
"""

from __future__ import annotations

import torch
from torch import fx

from mpsplit.errors import GraphError
from mpsplit.graph.foreign.captured_view import NODE, TYPED
from mpsplit.graph.symbols import Size
from mpsplit.graph.value_types import ValueType

ROWS = Size.parse("rows")
ELEMENTS = {
    torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.float64: "f64", torch.int64: "i64",
    torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8", torch.bool: "bool",
}  # fmt: skip


def typed_text(graph_module: fx.GraphModule, length: int | None = None) -> str:
    """`length`: the number that stands for any, where the trace was of numbers; no other size has
    it."""
    types = {node.name: _type_of(graph_module, node, length) for node in graph_module.graph.nodes}
    lines = []
    for line in str(graph_module.graph).split("\n"):
        found = NODE.fullmatch(line.strip())
        said = types.get(found[1]) if found else None
        lines.append(f"{line}{TYPED}{said}" if said else line)
    return "\n".join(lines) + "\n"


def _type_of(graph_module: fx.GraphModule, node: fx.Node, length: int | None) -> ValueType | None:
    value = node.meta.get("example_value", node.meta.get("val"))
    if value is None and node.op == "get_attr":
        value, length = _attribute(graph_module, str(node.target)), None
    if not isinstance(value, torch.Tensor) or value.dtype not in ELEMENTS:
        return None
    try:
        return ValueType(ELEMENTS[value.dtype], tuple(_size(size, length) for size in value.shape))
    except GraphError:  # no size of ours, such as a product of two lengths
        return None


def _attribute(graph_module: fx.GraphModule, name: str) -> object:
    found: object = graph_module
    for word in name.split("."):
        found = getattr(found, word, None)
    return found


def _size(size: int | torch.SymInt, length: int | None) -> Size:
    if length is not None and size == length:
        return ROWS
    if length is not None and size % length == 0:
        raise GraphError(f"{size} may be a number or a multiple of the length {length}")
    return Size.parse(str(size).replace(" ", ""))
