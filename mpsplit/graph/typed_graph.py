"""A graph as frozen dataclasses: values, steps, and regions that repeat.

Pure data; graph_checks says whether it hangs together, graph_text and graph_parser are its text.

A name stands once in a graph, those inside of repeats too. The index of a repeat may stand between
braces in what a Given or an Output is called outside: model.layers.{layer}.mlp.up_proj.weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mpsplit.graph.value_types import ValueType

Attributes = tuple[tuple[str, int | float], ...]
Words = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Value:
    name: str
    type: ValueType


@dataclass(frozen=True)
class Given:
    """An input or a weight: `name` in the graph, `source` what it is called outside."""

    name: str
    type: ValueType
    source: str


@dataclass(frozen=True)
class Output:
    """A value, and what it is called outside."""

    value: str
    name: str


@dataclass(frozen=True)
class Step:
    """One operator: the names of what it reads, weights last; what it makes; its attributes, in the
    order of the operator's table. An operator with a point in its name is another library's: nobody
    here has a rule for it, it makes what is said, and `words` are its attributes as that library
    writes them."""

    operator: str
    reads: tuple[str, ...]
    makes: tuple[Value, ...]
    attributes: Attributes = ()
    words: Words = ()

    @property
    def is_foreign(self) -> bool:
        return "." in self.operator


@dataclass(frozen=True)
class Carried:
    """A value that one turn of a repeat hands to the next: `name` inside, `start` for the first
    turn, `following` of a turn for the one after it, `result` after the last."""

    name: str
    type: ValueType
    start: str
    following: str
    result: str


@dataclass(frozen=True)
class Region:
    inputs: tuple[Given, ...] = ()
    weights: tuple[Given, ...] = ()
    steps: tuple[Step | Repeat, ...] = ()
    outputs: tuple[Output, ...] = ()

    @property
    def given(self) -> tuple[Given, ...]:
        return self.inputs + self.weights


@dataclass(frozen=True)
class Repeat:
    """`body` once for each number of `first` .. `stop` - 1, which it knows as `index`."""

    index: str
    first: int
    stop: int
    carried: tuple[Carried, ...]
    body: Region

    @property
    def turns(self) -> range:
        return range(self.first, self.stop)

    @property
    def makes(self) -> tuple[Value, ...]:
        return tuple(Value(carried.result, carried.type) for carried in self.carried)

    @property
    def reads(self) -> tuple[str, ...]:
        """What it reads of the region around it."""
        inside = {given.name for given in self.body.given} | {carried.name for carried in self.carried}
        inside |= {value.name for step in self.body.steps for value in step.makes}
        found = [carried.start for carried in self.carried]
        found += [name for step in self.body.steps for name in step.reads]
        found += [carried.following for carried in self.carried] + [output.value for output in self.body.outputs]
        return tuple(dict.fromkeys(name for name in found if name not in inside))


@dataclass(frozen=True)
class Graph:
    title: str
    body: Region


def every_name(region: Region) -> Iterator[str]:
    yield from (given.name for given in region.given)
    for step in region.steps:
        yield from (value.name for value in step.makes)
        if isinstance(step, Repeat):
            yield from (carried.name for carried in step.carried)
            yield from every_name(step.body)


def free_name(wanted: str, taken: set[str]) -> str:
    """The name, or it with the first number that makes it one of its own; it is taken from then
    on."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name
