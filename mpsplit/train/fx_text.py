"""A graph as text that one can read: a line an operator, with types and places.

In: a graph of torch.compile, with a value's shape at each node. Out: a text. Invariant: the same
model gives the same text, in whichever process and folder it stands.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


def fx_text(graph: GraphModule) -> str:
    """Input names are those of the arrays that it is given."""
    return "".join(f"{_line(node)}\n" for node in graph.graph.nodes)


class _Name:
    def __init__(self, node: Node):
        self.name = node.name

    def __repr__(self) -> str:
        return f"%{self.name}"


def _line(node: Node) -> str:
    arguments = [repr(given) for given in map_arg(node.args, _Name)]
    arguments += [f"{name}={given!r}" for name, given in map_arg(node.kwargs, _Name).items()]
    if node.op == "output":
        return f"return {', '.join(arguments)}"
    head = f"%{node.name}: {_type(node.meta.get('val', node.meta.get('example_value')))}"
    if node.op == "placeholder":
        return f"input {head}"
    place = place_of(node)
    return f"{head} = {_operator(node.target)}({', '.join(arguments)})" + (f"  # {place}" if place else "")


def _operator(target: Any) -> str:
    """Of a function of Python its name: what it prints as has an address."""
    return str(target) if isinstance(target, OpOverload | str) else getattr(target, "__name__", type(target).__name__)


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_type, value))})"
    return type(value).__name__


def place_of(node: Node) -> str:
    """Where the model says so: the innermost line, without the folders of this machine."""
    found = list(PLACE.finditer(node.meta.get("stack_trace") or ""))
    if not found:
        return ""
    last = found[-1]
    return f"{last['file'].rsplit('/', 1)[-1]}:{last['line']} {last['code'].strip()}"
