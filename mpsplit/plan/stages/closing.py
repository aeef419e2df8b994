"""What each stage takes, gives, and has for itself.

In: a CountedGraph and its cuts. Out: ClosedStages.

What a stage reads of others is passed along, or copied in: computed again, from small weights and
inputs, where these are fewer bytes than the value and the work is little. A weight that two stages
read is in both. What follows from the length alone is made in each.

Invariant: a stage's nodes read its inputs, its made values, its weights, its constants and each
other, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mpsplit.errors import PlanError
from mpsplit.plan.stages.counted_graph import CountedGraph

WORK = 1  # flops a byte of the value that may be done again instead of sending it


Copies = Callable[[CountedGraph, tuple[str, ...]], tuple[str, ...]]  # a stage's own nodes -> all it has


@dataclass(frozen=True)
class ClosedStage:
    """`nodes`: in order, those that were copied in among them. `inputs`: of the model and of
    earlier stages, `made` here, `outputs`: what others read, or the model gives. `weights`: by
    their names; `shared`: those of them that another stage has too; `copied`: values that are
    computed here again."""

    name: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    made: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    shared: tuple[str, ...]
    copied: tuple[str, ...]
    flops: int
    bytes: int


def closed(graph: CountedGraph, cuts: Sequence[int]) -> tuple[ClosedStage, ...]:
    stages = _closed(graph, cuts, _with_copies)
    if not all(stage.outputs for stage in stages):  # all of a stage is cheap, and would be done by others
        stages = _closed(graph, cuts, lambda graph, run: run)
    return check_closed(graph, stages)


def _closed(graph: CountedGraph, cuts: Sequence[int], with_copies: Copies) -> list[ClosedStage]:
    ends = [0, *cuts, len(graph.nodes)]
    runs = [tuple(node.name for node in graph.nodes[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    members = [with_copies(graph, run) for run in runs]
    read = [_read_outside(graph, nodes) for nodes in members]
    stages: list[ClosedStage] = []
    for number, (run, nodes) in enumerate(zip(runs, members, strict=True)):
        wanted = {value for other, values in enumerate(read) if other != number for value in values}
        wanted |= set(graph.outputs)
        weights = _weights(graph, nodes)
        others = {name for i, its in enumerate(members) if i != number for name in _weights(graph, its)}
        stages.append(
            ClosedStage(
                name=_unused(_name(graph, run), [stage.name for stage in stages]),
                nodes=nodes,
                inputs=tuple(value for value in read[number] if value not in graph.made),
                made=tuple(value for value in read[number] if value in graph.made),
                outputs=tuple(value for value in run if value in wanted),
                weights=weights,
                shared=tuple(name for name in weights if name in others),
                copied=tuple(value for value in nodes if value not in run),
                flops=sum(graph.by_name[name].flops for name in nodes),
                bytes=sum(graph.weights[name] for name in weights),
            )
        )
    return stages


def check_closed(graph: CountedGraph, stages: Iterable[ClosedStage]) -> tuple[ClosedStage, ...]:
    """The stages, when each reads what it has, and what it takes is given by an earlier one."""
    given = set(graph.inputs)
    for stage in (stages := tuple(stages)):
        have = {*stage.inputs, *stage.made}
        for name in stage.nodes:
            node = graph.by_name[name]
            missing = [*(set(node.reads) - have), *(set(node.weights) - set(stage.weights))]
            if missing:
                raise PlanError(f"stage {stage.name} is not closed: {name} reads {missing[0]}, which it does not have")
            have.add(name)
        if unknown := set(stage.inputs) - given:
            raise PlanError(f"stage {stage.name} is not closed: no stage before it gives {sorted(unknown)[0]}")
        given |= set(stage.outputs)
    return stages


def _weights(graph: CountedGraph, nodes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for node in nodes for name in graph.by_name[node].weights))


def _read_outside(graph: CountedGraph, nodes: Sequence[str]) -> tuple[str, ...]:
    inside = set(nodes)
    return tuple(dict.fromkeys(v for node in nodes for v in graph.by_name[node].reads if v not in inside))


def _with_copies(graph: CountedGraph, run: tuple[str, ...]) -> tuple[str, ...]:
    """A stage's own nodes, and what it computes again rather than have it sent."""
    inside = set(run)
    for value in _read_outside(graph, run):
        if value in graph.by_name and (again := _cheap(graph, value)):
            inside |= again
    return tuple(node.name for node in graph.nodes if node.name in inside)


def _cheap(graph: CountedGraph, value: str) -> set[str] | None:
    """The nodes that compute a value again, where that is cheaper than to send it."""
    nodes: set[str] = set()
    given: set[str] = set()
    waiting = [value]
    flops, size = 0, graph.by_name[value].bytes
    while waiting:
        name = waiting.pop()
        if name in nodes or name in given:
            continue
        if name in graph.inputs:
            given.add(name)
            continue
        nodes.add(name)
        flops += graph.by_name[name].flops
        waiting += graph.by_name[name].reads
        if flops > WORK * size:
            return None
    taken = sum(graph.inputs[name] for name in given - graph.made)
    taken += sum(graph.weights[name] for name in _weights(graph, nodes))
    return nodes if taken < size else None


def _name(graph: CountedGraph, run: Sequence[str]) -> str:
    """That of the module which has most of the work: of its layer's half, where it is one."""
    work: dict[str, float] = {}
    for name in run:
        node = graph.by_name[name]
        work[node.module] = work.get(node.module, 0.0) + node.flops + node.moved / 1e6
    shared = _common([path.split(".") for path in work])
    prefix = ".".join(shared)
    if shared and len(run) >= sum(f"{node.module}.".startswith(f"{prefix}.") for node in graph.nodes):
        return prefix
    parts: dict[str, float] = {}
    for path, share in work.items():
        part = ".".join(path.split(".")[: len(shared) + 1])
        parts[part] = parts.get(part, 0.0) + share
    return max(parts, key=lambda path: parts[path]) or "model"


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    shared = []
    for words in zip(*paths, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return shared


def _unused(name: str, taken: Sequence[str]) -> str:
    return name if name not in taken else next(f"{name}-{i}" for i in range(2, 1 << 20) if f"{name}-{i}" not in taken)
