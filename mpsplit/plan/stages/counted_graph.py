"""A captured graph as numbers: what plan must know of it to cut it.

In: nodes in the order in which they run. Out: a CountedGraph, pure data.

Invariant: a node reads what stands before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Node:
    """`module`: the path of the module that computes it. `reads`: nodes, inputs and made values;
    `weights`: by their names in the model, and `constants`. Of its value: `bytes`, and the `flops`
    that it takes, at a usual length. `moved`: bytes that it reads and writes for that.
    `splits`: it only has parts for others to take."""

    name: str
    module: str
    reads: tuple[str, ...]
    weights: tuple[str, ...]
    flops: int
    bytes: int
    moved: int
    constants: tuple[str, ...] = ()
    splits: bool = False


@dataclass(frozen=True)
class CountedGraph:
    """`inputs`: of the model, and `made` values, with their bytes; `weights`, with their bytes as
    float32, and `constants`. `outputs`: names of nodes."""

    inputs: dict[str, int]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    weights: dict[str, int]
    made: frozenset[str] = frozenset()
    constants: dict[str, int] | None = None

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def place(self) -> dict[str, int]:
        """Where each node stands."""
        return {node.name: i for i, node in enumerate(self.nodes)}

    @cached_property
    def last_reader(self) -> dict[str, int]:
        """The last place at which a value is read."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.reads}

    def bytes_of(self, value: str) -> int:
        return self.inputs[value] if value in self.inputs else self.by_name[value].bytes
