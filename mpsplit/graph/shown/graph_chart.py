"""A graph as boxes and lines, for the pictures of package/picture.

In: a Graph. Out: a Chart: a block for the steps before, inside of and after each repeat.

Only what comes from the rows is drawn: inputs that carry them, and steps. Lines go from what makes
a value to its readers; what a repeat carries enters at its first turn and leaves at its last.
Invariant: lines go down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpsplit.graph.operator_table import OPERATORS
from mpsplit.graph.typed_graph import Given, Graph, Region, Repeat, Step
from mpsplit.package.collectives import BY_OPERATOR
from mpsplit.package.picture.chart import ATTENTION, HIDDEN, OTHER, TALK, WEIGHTS, Block, Chart, Node

ATTENTIONS = ("attention", "sdpa")


def graph_chart(graph: Graph) -> Chart:
    drawing = _Drawing({}, [], [])
    drawing.add(graph.body, "before the first repeat", 1)
    return Chart(tuple(block for block in drawing.blocks if block.nodes), tuple(dict.fromkeys(drawing.edges)))


@dataclass
class _Drawing:
    """`box`: the box that makes a value, by its name; a repeat's values have boxes inside of it."""

    box: dict[str, str]
    blocks: list[Block]
    edges: list[tuple[str, str]]

    def add(self, region: Region, title: str, count: int) -> None:
        run: list[Given | Step] = list(region.inputs)
        for step in region.steps:
            if isinstance(step, Repeat):
                self._block(run, title, count)
                run = []
                self._repeat(step)
                title = f"after {_title(step)}"
            else:
                run.append(step)
        self._block(run, title, count)

    def _repeat(self, repeat: Repeat) -> None:
        self.box |= {c.name: self.box[c.start] for c in repeat.carried if c.start in self.box}
        self.add(repeat.body, _title(repeat), len(repeat.turns))
        self.box |= {c.result: self.box[c.following] for c in repeat.carried if c.following in self.box}

    def _block(self, run: Sequence[Given | Step], title: str, count: int) -> None:
        rows: dict[str, int] = {}
        nodes = []
        for item in run:
            name = item.name if isinstance(item, Given) else item.makes[0].name
            reads = () if isinstance(item, Given) else item.reads
            sources = [self.box[read] for read in reads if read in self.box]
            rows[name] = 1 + max((rows[source] for source in sources if source in rows), default=-1)
            self.edges += [(source, name) for source in sources]
            self.box |= dict.fromkeys([name] if isinstance(item, Given) else [value.name for value in item.makes], name)
            nodes.append(Node(name, tuple(_lines(item)), _kind(item), rows[name]))
        self.blocks.append(Block(title, count, tuple(nodes)))


def _title(repeat: Repeat) -> str:
    return f"{repeat.index} {repeat.first} .. {repeat.stop - 1}"


def _kind(item: Given | Step) -> str:
    if isinstance(item, Given):
        return HIDDEN
    if item.operator in BY_OPERATOR:
        return TALK
    if item.operator in ATTENTIONS:
        return ATTENTION
    return WEIGHTS if not item.is_foreign and OPERATORS[item.operator].weights else OTHER


def _lines(item: Given | Step) -> Iterator[str]:
    """The operator, then what it makes."""
    if isinstance(item, Given):
        yield from (item.name, str(item.type))
        return
    yield item.operator
    yield from (
        f"{value.name}: {value.type}" if value.name != item.operator else str(value.type) for value in item.makes
    )
