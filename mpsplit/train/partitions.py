"""One graph in partitions: what the target takes is compiled, the rest is run by torch.

In: a graph of aot_autograd, with a value's shape at each node. Out: the same graph, calling a
compiled module for each partition, and `Partitioned`, which counts. Invariant: the graph's inputs
and outputs stay as they were, None among them too.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from mpsplit.train.targets import Compiled, Target


@dataclass(frozen=True)
class Partitioned:
    """`taken`: operators in all compiled partitions; `left`: those that torch runs, by name."""

    partitions: int
    taken: int
    left: Mapping[str, int]


class _CompiledPart(nn.Module):
    def __init__(self, compiled: Compiled, single: bool) -> None:
        super().__init__()
        self.compiled, self.single = compiled, single

    def forward(self, *values: Any) -> Any:
        outputs = self.compiled(*values)
        return outputs[0] if self.single else outputs


class _Taken(OperatorSupportBase):
    def __init__(self, target: Target) -> None:
        self.target = target

    def is_node_supported(self, submodules: Mapping[str, nn.Module], node: Node) -> bool:
        if node.target is operator.getitem and isinstance(node.args[0], Node):
            return self.is_node_supported(submodules, node.args[0])
        return isinstance(node.target, OpOverload) and self.target.takes(node.target)


def count(graph: GraphModule, target: Target) -> tuple[int, Counter[str]]:
    """How many operators the target takes, and which it does not."""
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    operators = [kind for kind in called if isinstance(kind, OpOverload | HigherOrderOperator)]
    left = [kind for kind in operators if not (isinstance(kind, OpOverload) and target.takes(kind))]
    return len(operators) - len(left), Counter(map(str, left))


def partitioned(graph: GraphModule, target: Target) -> tuple[GraphModule, int]:
    """And how many partitions it has."""
    partitioner = CapabilityBasedPartitioner(graph, _Taken(target), allows_single_node_partition=True)
    fused = partitioner.fuse_partitions(partitioner.propose_partitions())
    parts = [node for node in fused.graph.nodes if node.op == "call_module"]
    for node in parts:
        _compile_part(fused, str(node.target), target)
    return fused, len(parts)


def _compile_part(graph: GraphModule, name: str, target: Target) -> None:
    part = graph.get_submodule(name)
    assert isinstance(part, GraphModule)
    output = part.graph.output_node()
    single = isinstance(output.args[0], Node)
    if single:
        output.args = ((output.args[0],),)
        part.recompile()
    graph.set_submodule(name, _CompiledPart(target.compile(part), single))
