"""Writing a graph in Python.

In: calls, in the order in which the values are made. Out: a Graph that hangs together; a step whose
shapes do not fit is refused where it is written.

    g = GraphBuilder("two norms")
    x = g.input("x", "f32[rows, 8]")
    def layer(g, h):
        weight = g.weight("w", "f32[8]", source="layers.{layer}.norm.weight")
        return g.step("rms_norm", h, weight, epsilon=1e-6)
    (last,) = g.repeat("layer", range(2), {"h": x}, layer)
    g.output(last, "last")
    graph = g.graph()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mpsplit.errors import GraphError
from mpsplit.graph.graph_checks import check_graph
from mpsplit.graph.shape_rules import checked_attributes, made_of, operator_of
from mpsplit.graph.typed_graph import Carried, Given, Graph, Output, Region, Repeat, Step, Value, free_name
from mpsplit.graph.value_types import ValueType

Body = Callable[..., "Value | Sequence[Value]"]


class GraphBuilder:
    """`title` of the graph; inside of a repeat another one stands for its body, with the same
    names taken."""

    def __init__(self, title: str, _taken: set[str] | None = None):
        self.title = title
        self._taken = set() if _taken is None else _taken
        self._inputs: list[Given] = []
        self._weights: list[Given] = []
        self._steps: list[Step | Repeat] = []
        self._outputs: list[Output] = []

    def input(self, name: str, type: str | ValueType, source: str = "") -> Value:
        return self._give(self._inputs, name, type, source)

    def weight(self, name: str, type: str | ValueType, source: str = "") -> Value:
        return self._give(self._weights, name, type, source)

    def step(self, operator: str, *reads: Value, name: str = "", **attributes: int | float) -> Value:
        """Of an operator that makes one value."""
        made = self.steps(operator, *reads, names=(name,) if name else (), **attributes)
        if len(made) != 1:
            raise GraphError(f"{operator} makes {len(made)} values; write steps() for it")
        return made[0]

    def steps(
        self, operator: str, *reads: Value, names: Sequence[str] = (), **attributes: int | float
    ) -> tuple[Value, ...]:
        """Of any operator; values without names have the operator's."""
        types = made_of(operator, [value.type for value in reads], attributes)
        if names and len(names) != len(types):
            raise GraphError(f"{operator} makes {len(types)} values, there are {len(names)} names")
        names = names or operator_of(operator).made or [operator] * len(types)
        made = tuple(Value(free_name(name, self._taken), type) for name, type in zip(names, types, strict=True))
        said = tuple(checked_attributes(operator, attributes).items())
        self._steps.append(Step(operator, tuple(value.name for value in reads), made, said))
        return made

    def foreign(
        self, operator: str, reads: Sequence[Value], makes: Sequence[Value], words: Mapping[str, str]
    ) -> tuple[Value, ...]:
        """Of another library's operator, which makes what is said."""
        made = tuple(Value(free_name(value.name, self._taken), value.type) for value in makes)
        self._steps.append(Step(operator, tuple(value.name for value in reads), made, words=tuple(words.items())))
        return made

    def repeat(self, index: str, turns: range, start: Mapping[str, Value], body: Body) -> tuple[Value, ...]:
        """`body` is given a builder and what is carried, by the names of `start`, and gives what
        the next turn has in its place. Out: what is carried after the last."""
        if turns.step != 1:
            raise GraphError(f"repeat {index} goes by steps of {turns.step}; write its index as {{2*{index}}}")
        inner = GraphBuilder(self.title, self._taken)
        entering = [Value(free_name(name, self._taken), value.type) for name, value in start.items()]
        after = body(inner, *entering)
        following = [after] if isinstance(after, Value) else list(after)
        if len(following) != len(entering):
            raise GraphError(f"the body of {index} gives {len(following)} values, it carries {len(entering)}")
        results = tuple(Value(free_name(f"{value.name}_after", self._taken), value.type) for value in entering)
        carried = tuple(
            Carried(value.name, value.type, first.name, then.name, result.name)
            for value, first, then, result in zip(entering, start.values(), following, results, strict=True)
        )
        self._steps.append(Repeat(index, turns.start, turns.stop, carried, inner.region))
        return results

    def output(self, value: Value, name: str = "") -> None:
        self._outputs.append(Output(value.name, name or value.name))

    @property
    def region(self) -> Region:
        return Region(tuple(self._inputs), tuple(self._weights), tuple(self._steps), tuple(self._outputs))

    def graph(self) -> Graph:
        graph = Graph(self.title, self.region)
        check_graph(graph)
        return graph

    def _give(self, group: list[Given], name: str, type: str | ValueType, source: str) -> Value:
        value = Value(free_name(name, self._taken), ValueType.parse(type) if isinstance(type, str) else type)
        group.append(Given(value.name, value.type, source or name))
        return value
