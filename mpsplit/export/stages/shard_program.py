"""A shard of a part of a stage, as a module of its own.

In: a Capture, a Part, which shard. Out: a GraphModule, and which entries of each weight it has.

Invariant: a shard has the entries of its list, and rows of zeros where its rows must stand apart
(package/stages/sharded_part.py). A bias that is added after a sum is in the first shard alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from mpsplit.export.stages.captured import Capture
from mpsplit.export.stages.shard_parts import Part
from mpsplit.export.stages.stage_program import Extraction, weight_name
from mpsplit.package.stages.sharded_part import laid_out
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, indices_of, size_of

BIAS = 2  # its place among the arguments of linears and convolutions


class ShardExtraction(Extraction):
    def __init__(self, capture: Capture, part: Part, shard: int):
        self.part, self.shard = part, shard
        indices = indices_of(part.shards[shard])
        self.indices = laid_out(indices, sum(map(size_of, part.shards))) if part.cut == ROWS else indices
        super().__init__(capture, part.nodes, [part.takes], [part.gives])
        if part.cut == COLUMNS:
            [given] = self.graph.find_nodes(op="placeholder")
            given.meta["val"] = given.meta["val"].narrow(part.axis, 0, len(indices))

    @property
    def entries(self) -> dict[str, tuple[int, list[int]]]:
        """Of the module's weights that are cut: along which axis, and which entries."""
        weights = self.capture.weights
        return {weight_name(weights[name]): (axis, self.indices.tolist()) for name, axis in self.part.cuts.items()}

    @property
    def weights(self) -> tuple[str, ...]:
        """By their names in the model."""
        used = [given for node in self.nodes for given in self._arguments(node)]
        return tuple(dict.fromkeys(self.capture.weights[given.name] for given in used if given.op == "get_attr"))

    @property
    def bytes(self) -> int:
        """As float32, without rows of zeros."""
        size = 0
        for name, weight in self.capture.weights.items():
            if weight in self.weights:
                shape = list(self.old[name].meta["val"].shape)
                if name in self.part.cuts:
                    shape[self.part.cuts[name]] = size_of(self.part.shards[self.shard])
                size += 4 * torch.Size(shape).numel()
        return size

    def _held_shape(self, node: fx.Node, shape: torch.Size) -> torch.Size:
        if node.name not in self.part.cuts:
            return shape
        axis = self.part.cuts[node.name]
        return torch.Size([*shape[:axis], len(self.indices), *shape[axis + 1 :]])

    def _rewritten(self, node: fx.Node) -> fx.Node:
        if not self._without_bias(node):
            return super()._rewritten(node)
        bias = node.args[BIAS]
        return self.graph.node_copy(node, lambda given: None if given is bias else self._given(given))

    def _without_bias(self, node: fx.Node) -> bool:
        return node.name == self.part.summed and self.shard > 0

    def _arguments(self, node: fx.Node) -> list[fx.Node]:
        given: list[Any] = list(node.all_input_nodes)
        return given[:BIAS] if self._without_bias(node) else given
