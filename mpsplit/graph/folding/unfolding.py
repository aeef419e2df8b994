"""Repeats written out, turn by turn.

In: a Graph. Out: the same without repeats: a list of steps in the order in which they run. The
first turn keeps its names; what comes out of a repeat has the name that the last turn gave it.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.graph.graph_checks import outside_name
from mpsplit.graph.typed_graph import Given, Graph, Output, Region, Repeat, Step, every_name, free_name


def unfolded(graph: Graph) -> Graph:
    writing = _Writing(set(every_name(graph.body)))
    writing.write(graph.body, {}, {}, True)
    return replace(graph, body=writing.region)


class _Writing:
    """A graph while it is written out. A scope maps a name in the graph to the one here."""

    def __init__(self, taken: set[str]):
        self.taken = taken
        self.inputs: list[Given] = []
        self.weights: list[Given] = []
        self.steps: list[Step] = []
        self.outputs: list[Output] = []

    @property
    def region(self) -> Region:
        return Region(tuple(self.inputs), tuple(self.weights), tuple(self.steps), tuple(self.outputs))

    def write(self, region: Region, scope: dict[str, str], numbers: dict[str, int], first: bool) -> None:
        """`scope` is that of the region afterwards."""
        for group, given_there in ((self.inputs, region.inputs), (self.weights, region.weights)):
            for given in given_there:
                scope[given.name] = self._name(given.name, first)
                group.append(Given(scope[given.name], given.type, outside_name(given.source, numbers)))
        for step in region.steps:
            if isinstance(step, Repeat):
                self._write_repeat(step, scope, numbers, first)
            else:
                reads = tuple(scope[name] for name in step.reads)
                scope |= {value.name: self._name(value.name, first) for value in step.makes}
                makes = tuple(replace(value, name=scope[value.name]) for value in step.makes)
                self.steps.append(replace(step, reads=reads, makes=makes))
        for output in region.outputs:
            self.outputs.append(Output(scope[output.value], outside_name(output.name, numbers)))

    def _write_repeat(self, repeat: Repeat, scope: dict[str, str], numbers: dict[str, int], first: bool) -> None:
        handed = [scope[carried.start] for carried in repeat.carried]
        for turn in repeat.turns:
            inner = scope | {carried.name: name for carried, name in zip(repeat.carried, handed, strict=True)}
            self.write(repeat.body, inner, numbers | {repeat.index: turn}, first and turn == repeat.first)
            handed = [inner[carried.following] for carried in repeat.carried]
        scope |= {carried.result: name for carried, name in zip(repeat.carried, handed, strict=True)}

    def _name(self, name: str, first: bool) -> str:
        return name if first else free_name(name, self.taken)
