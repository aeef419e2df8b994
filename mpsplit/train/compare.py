"""Each operator of a graph beside torch in float64, at the same inputs.

In: a graph, its target, a folder. Out: a function that computes as the graph does and notes by how
much each operator is off. Invariant: what goes on is what the target computed, so the first that
parts is told by itself, not by what came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate

from mpsplit.package.whole_files import write_arrays
from mpsplit.train.fx_text import place_of
from mpsplit.train.targets import Target

# of the largest number of what torch says in float64: more than rounding does to one operator
PARTS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass
class Comparison:
    """`errors`: of each operator that was compared, in order, as shares of its largest number."""

    errors: dict[str, float] = field(default_factory=dict)
    first: str = ""  # the operator that parts first: its error and place

    def line(self) -> str:
        if not self.errors:
            return "nothing compared yet"
        name = max(self.errors, key=self.errors.__getitem__)
        worst = f"{len(self.errors)} operators compared, %{name} furthest off by {self.errors[name]:.1e}"
        return f"{worst}; first to part: {self.first}" if self.first else f"{worst}; none parts"


class Compared(Interpreter):
    """`path`: an .npz of what the last call computed, and of the same in float64, in a folder that
    is there."""

    def __init__(self, graph: GraphModule, target: Target, path: Path):
        own = Graph()  # the other is about to be cut
        own.output(own.graph_copy(graph.graph, {}))
        super().__init__(GraphModule(graph, own))
        self.target, self.path, self.comparison = target, path, Comparison()
        self._one = cache(self._compiled)

    def __call__(self, *values: Any) -> Any:
        self.comparison.errors.clear()
        self.comparison.first = ""
        self._arrays: dict[str, np.ndarray] = {}
        outputs = self.run(*values)
        write_arrays(self.path, self._arrays)
        return outputs

    def run_node(self, n: Node) -> Any:
        if not _comparable(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        found = self._one(n)(*self._given(n))
        exact = n.target(*_wide(args), **_wide(kwargs))
        for name, here, there in _floats(n.name, found, exact):
            self._note(n, name, here.detach(), there.detach())
        return found

    def _note(self, node: Node, name: str, here: torch.Tensor, there: torch.Tensor) -> None:
        error = _off(here.double(), there.double())
        self._arrays |= {name: here.float().numpy(), f"{name}.float64": there.double().numpy()}
        self.comparison.errors[name] = error
        if not error <= PARTS[here.dtype] and not self.comparison.first:  # nan too
            self.comparison.first = f"%{name}, {node.target}, off by {error:.1e} at {place_of(node) or 'no line known'}"

    def _given(self, node: Node) -> list[Any]:
        return [self.env[given] for given in node.all_input_nodes]

    def _compiled(self, node: Node) -> Callable[..., Any]:
        """The operator by itself, by the target if that takes it."""
        graph, given = Graph(), {}
        for one in node.all_input_nodes:
            given[one] = graph.placeholder(one.name)
            given[one].meta = {"val": one.meta["val"]}
        copied = graph.node_copy(node, given.__getitem__)
        value = node.meta["val"]
        several = isinstance(value, list | tuple)
        outputs = [graph.call_function(getitem, (copied, i)) for i in range(len(value))] if several else [copied]
        for output, one in zip(outputs, value if several else [value], strict=True):
            output.meta["val"] = one
        graph.output(tuple(outputs))
        module = GraphModule({}, graph)
        function = self.target.compile(module) if self.target.takes(node.target) else module.forward
        return function if several else lambda *values: function(*values)[0]


def _off(here: torch.Tensor, there: torch.Tensor) -> float:
    """The largest difference as a share of the largest number; infinities and nan may be alike."""
    finite = there[there.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    alike = (here == there) | (here.isnan() & there.isnan())
    apart = (here - there).abs()[~alike]
    return float(apart.max()) / (largest or 1.0) if apart.numel() else 0.0


def _comparable(node: Node) -> bool:
    kind = node.target
    if not isinstance(kind, OpOverload) or kind._schema.is_mutable or torch.Tag.nondeterministic_seeded in kind.tags:
        return False
    value = node.meta["val"]
    return any(map(_is_float, value if isinstance(value, list | tuple) else [value]))


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _wide(arguments: Any) -> Any:
    """In float64, and to float64 where they say to which type."""

    def one(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float64 if value.is_floating_point else value
        return value.double() if _is_float(value) else value

    return map_aggregate(arguments, one)


def _floats(name: str, found: Any, exact: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    if isinstance(found, list | tuple):
        for i, pair in enumerate(zip(found, exact, strict=True)):
            yield from _floats(f"{name}.{i}", *pair)
    elif _is_float(found):
        yield name, found, exact
