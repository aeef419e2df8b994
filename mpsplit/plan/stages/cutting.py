"""Where a graph is cut into stages.

In: a CountedGraph and a number of stages, or modules to begin with. Out: the places of the cuts.

`balanced` minimises, over all ways to cut, how unequal the stages are, as the sum of squares of
their costs, and prefers by a little the border of a module to its inside. Cuts lie on the spine,
where one value carries all, unless there are too few such places.

Invariant: stages are runs of nodes, none is empty, and each computes something.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from mpsplit.errors import PlanError
from mpsplit.plan.stages.counted_graph import CountedGraph

FLOPS_A_BYTE = 4  # a byte that is moved takes as long as so many operations
INSIDE = 0.01  # a level of modules that a cut lies in
WIDER = 1e3  # a value more that crosses: more than any inequality


def balanced(graph: CountedGraph, stages: int) -> tuple[int, ...]:
    """Each cut is the number of the node that the next stage begins with."""
    between = places(graph)
    if not 1 <= stages <= len(between) + 1:
        raise PlanError(
            f"the graph has {len(between)} places where it can be cut, {stages} stages were asked for; give --stages 1"
            f" to {len(between) + 1}"
        )
    ends = [0, *between, len(graph.nodes)]
    sums = np.concatenate([[0.0], np.cumsum([cost_of(node.flops, node.moved) for node in graph.nodes])])[ends]
    share = (sums - sums[:, None]) * stages / max(sums[-1], 1.0)  # [first, last] of a stage
    unequal = np.where(np.arange(len(ends))[:, None] < np.arange(len(ends)), share**2, np.inf)
    penalty = np.array([0.0, *(_penalty(graph, place) for place in between), 0.0])
    best, came = np.full(len(ends), np.inf), []
    best[0] = 0.0
    for _ in range(stages):
        total = best[:, None] + unequal + penalty
        came.append(total.argmin(axis=0))
        best = total.min(axis=0)
    at, cuts = len(ends) - 1, []
    for step in reversed(came):
        at = int(step[at])
        cuts.append(ends[at])
    return tuple(sorted(cuts[:-1]))


def at_modules(graph: CountedGraph, modules: Sequence[str]) -> tuple[int, ...]:
    """A stage begins with each of these modules."""
    cuts = set()
    for path in modules:
        inside = [i for i, node in enumerate(graph.nodes) if f"{node.module}.".startswith(f"{path}.")]
        if not inside:
            known = ", ".join(dict.fromkeys(node.module for node in graph.nodes if node.weights))
            raise PlanError(f"--stages {path}: the graph has no such module; there are {known[:400]}")
        cuts.add(inside[0])
    return tuple(sorted(cuts - {0}))


def cost_of(flops: int, moved: int) -> float:
    return flops + FLOPS_A_BYTE * moved


def crossing(graph: CountedGraph, place: int) -> list[str]:
    """Values that are there before a place and read at it or after."""
    return [
        name
        for name, last in graph.last_reader.items()
        if last >= place and name not in graph.made and graph.place.get(name, -1) < place
    ]


def places(graph: CountedGraph) -> list[int]:
    """Between two nodes that compute, but not between a tuple and who takes from it."""
    return [
        place
        for place in range(1, len(graph.nodes))
        if not any(name in graph.by_name and graph.by_name[name].splits for name in crossing(graph, place))
    ]


def _penalty(graph: CountedGraph, place: int) -> float:
    before, after = (graph.nodes[i].module.split(".") for i in (place - 1, place))
    inside = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    wider = len(crossing(graph, place)) - 1
    return INSIDE * inside + WIDER * max(wider, 0)
