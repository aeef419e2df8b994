"""Who compiles, and which operators each takes: a line a target.

In: the name of a target. Out: `Target`. Invariant: a graph handed to `compile` has only operators
for which `takes` said yes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch._guards import TracingContext
from torch._ops import OpOverload
from torch.fx import GraphModule

Compiled = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Target:
    takes: Callable[[OpOverload], bool]
    compile: Callable[[GraphModule], Compiled]


def _lowered(operator: OpOverload) -> bool:
    """Inductor's own registry, without those that it hands back to torch."""
    from torch._inductor.lowering import fallbacks, lowerings  # slow to load

    return operator in lowerings and operator not in fallbacks


def _inductor(graph: GraphModule) -> Compiled:
    from torch._inductor.compile_fx import compile_fx_inner

    inputs = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    output = graph.graph.output_node()
    # what comes after is traced with these strides
    output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
    with TracingContext.report_output_strides():  # else a part's strides are taken for the whole graph's
        boxed: Any = compile_fx_inner(graph, inputs)
    return lambda *values: tuple(boxed(list(values)))


def _aten(operator: OpOverload) -> bool:
    return operator.namespace in ("aten", "prims")


TARGETS = {
    "inductor": Target(_lowered, _inductor),
    "eager": Target(_aten, lambda graph: graph.forward),  # compiles nothing: shows what a graph alone changes
}
