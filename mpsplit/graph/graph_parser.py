"""From the text of a graph to the graph.

In: text as graph_text writes it; empty lines and lines that begin with # say nothing. Out: a Graph
that hangs together, or a GraphError with the number of the line.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from mpsplit.errors import GraphError
from mpsplit.graph.graph_checks import NAME, OUTSIDE, check_graph
from mpsplit.graph.shape_rules import checked_attributes
from mpsplit.graph.symbols import SYMBOL
from mpsplit.graph.typed_graph import Attributes, Carried, Given, Graph, Output, Region, Repeat, Step, Value
from mpsplit.graph.value_types import TYPE_PATTERN, ValueType

VALUE = rf"{NAME}: {TYPE_PATTERN}"
TITLE = re.compile(r'graph (".*")')
GIVEN = re.compile(rf"(input|weight) ({NAME}): ({TYPE_PATTERN})(?: of ({OUTSIDE}))?", re.ASCII)
STEP = re.compile(rf"({VALUE}(?:, {VALUE})*) = ({NAME})\(([^()]*)\)((?: \w+=\S+)*)", re.ASCII)
REPEAT = re.compile(rf"repeat ({SYMBOL}) (\d{{1,9}})\.\.(\d{{1,9}}) \{{", re.ASCII)
CARRY = re.compile(rf"carry ({NAME}): ({TYPE_PATTERN}) from ({NAME}) next ({NAME}) to ({NAME})", re.ASCII)
OUTPUT = re.compile(rf"output ({NAME})(?: as ({OUTSIDE}))?", re.ASCII)
ONE_VALUE = re.compile(rf"({NAME}): ({TYPE_PATTERN})", re.ASCII)
DEEPEST = 8  # repeats in repeats
WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


@dataclass
class Open:
    """A region that is being read; of a repeat also its first line."""

    repeat: tuple[str, int, int] | None = None
    carried: list[Carried] = field(default_factory=list)
    inputs: list[Given] = field(default_factory=list)
    weights: list[Given] = field(default_factory=list)
    steps: list[Step | Repeat] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    @property
    def region(self) -> Region:
        return Region(tuple(self.inputs), tuple(self.weights), tuple(self.steps), tuple(self.outputs))


def parse_graph(text: str) -> Graph:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    title = TITLE.fullmatch(lines[0][1]) if lines else None
    if title is None:
        raise GraphError('the text of a graph begins with its title: graph "..."')
    open_regions = [Open()]
    for number, line in lines[1:]:
        try:
            _read(line, open_regions)
        except GraphError as wrong:
            raise GraphError(f"line {number}: {wrong}") from None
    if len(open_regions) > 1:
        raise GraphError(f"{len(open_regions) - 1} of its repeats do not end; each ends with a line of }}")
    graph = Graph(_title(title[1]), open_regions[0].region)
    check_graph(graph)
    return graph


def _title(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise GraphError(f"{quoted[:60]!a} is no title: it stands between quotes, as JSON has them") from None


def _read(line: str, regions: list[Open]) -> None:
    here = regions[-1]
    if found := GIVEN.fullmatch(line):
        kind, name, said, source = found.groups()
        group = here.inputs if kind == "input" else here.weights
        group.append(Given(name, ValueType.parse(said), source or name))
    elif found := STEP.fullmatch(line):
        here.steps.append(_step(*found.groups()))
    elif found := REPEAT.fullmatch(line):
        if len(regions) > DEEPEST:
            raise GraphError(f"repeats stand in each other deeper than {DEEPEST}")
        regions.append(Open((found[1], int(found[2]), int(found[3]))))
    elif (found := CARRY.fullmatch(line)) and here.repeat:
        here.carried.append(Carried(found[1], ValueType.parse(found[2]), found[3], found[4], found[5]))
    elif found := OUTPUT.fullmatch(line):
        here.outputs.append(Output(found[1], found[2] or found[1]))
    elif line == "}" and here.repeat:
        regions.pop()
        regions[-1].steps.append(Repeat(*here.repeat, tuple(here.carried), here.region))
    else:
        raise GraphError(f"{line[:80]!a} is no line of a graph: input, weight, repeat, carry, output, }} or a step")


def _step(made: str, operator: str, reads: str, attributes: str) -> Step:
    values = tuple(Value(found[1], ValueType.parse(found[2])) for found in ONE_VALUE.finditer(made))
    names = tuple(name.strip() for name in reads.split(",")) if reads.strip() else ()
    words = [word.partition("=")[::2] for word in attributes.split()]
    step = Step(operator, names, values, words=tuple(words))
    return step if step.is_foreign else Step(operator, names, values, _attributes(operator, words))


def _attributes(operator: str, pairs: list[tuple[str, str]]) -> Attributes:
    if len(dict(pairs)) < len(pairs):
        raise GraphError(f"{operator} has an attribute twice: {', '.join(name for name, _ in pairs)[:60]}")
    return tuple(checked_attributes(operator, {name: _number(value) for name, value in pairs}).items())


def _number(text: str) -> int | float:
    try:
        return int(text) if WHOLE.fullmatch(text) else float(text)
    except ValueError:
        raise GraphError(f"{text[:40]!a} is no number") from None
