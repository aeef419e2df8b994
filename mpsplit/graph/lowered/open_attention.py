"""Attention as ncnn's own layers have it.

In: a Graph with `attention`, whose cache and angles an engine keeps. Out: the same with `sdpa`:
heads apart, turned by cos and sin, with a mask; the past comes in and goes out as values.

Invariant: it computes the same, and its inputs and outputs are those that the stock engine has
(package/checked/layer_shapes.py).
"""

from __future__ import annotations

from mpsplit.errors import GraphError
from mpsplit.graph.folding.unfolding import unfolded
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.symbols import Size
from mpsplit.graph.typed_graph import Graph, Step, Value
from mpsplit.graph.value_types import plain

PAST = Size.parse("past")


def with_open_attention(graph: Graph) -> Graph:
    """Unfolded."""
    body = unfolded(graph).body
    g = GraphBuilder(graph.title)
    values = {given.name: g.input(given.name, given.type, given.source) for given in body.inputs}
    values |= {given.name: g.weight(given.name, given.type, given.source) for given in body.weights}
    attentions = _Attentions(g)
    for step in body.steps:
        assert isinstance(step, Step)
        reads = [values[name] for name in step.reads]
        said = dict(step.attributes)
        if step.operator == "attention":
            made: tuple[Value, ...] = (attentions.add(reads, said),)
        else:
            names = [value.name for value in step.makes]
            made = g.steps(step.operator, *reads, names=names, **said)
        values |= {old.name: new for old, new in zip(step.makes, made, strict=True)}
    for output in body.outputs:
        g.output(values[output.value], output.name)
    attentions.output()
    return g.graph()


class _Attentions:
    """`caches`: keys and values of each, with the new rows."""

    def __init__(self, g: GraphBuilder):
        self.g = g
        self.shared: dict[str, Value] = {}  # inputs that all of them read
        self.caches: list[tuple[Value, Value]] = []

    def add(self, reads: list[Value], said: dict[str, int | float]) -> Value:
        g, number = self.g, len(self.caches)
        heads, kv_heads, dim = (int(said[name]) for name in ("heads", "kv_heads", "head_dim"))
        rows = reads[0].type.shape[0]
        past = [g.input(name, plain(kv_heads, PAST, dim), name) for name in (f"past_k{number}", f"past_v{number}")]
        mask = self._input("mask", rows, PAST + rows)
        angles = [self._input(name, rows, Size(dim // 2)) for name in ("cos", "sin")]
        q, k, v = (self._apart(x, count) for x, count in zip(reads, (heads, kv_heads, kv_heads), strict=True))
        q, k = (g.step("rotary", x, *angles) for x in (q, k))
        scale = said.get("scale", dim**-0.5)
        found, keys, kept = g.steps("sdpa", q, k, v, mask, *past, scale=scale)
        self.caches.append((keys, kept))
        return g.step("join_heads", g.step("swap", found))

    def output(self) -> None:
        for number, pair in enumerate(self.caches):
            for kind, value in zip("kv", pair, strict=True):
                self.g.output(value, f"{kind}{number}")

    def _apart(self, x: Value, heads: int) -> Value:
        """[heads, rows, numbers]; after a norm of each head they lie in their rows already."""
        return self.g.step("swap", x if len(x.type.shape) == 3 else self.g.step("split_heads", x, heads=heads))

    def _input(self, name: str, *shape: Size) -> Value:
        if name not in self.shared:
            self.shared[name] = self.g.input(name, plain(*shape), name)
        if (value := self.shared[name]).type != plain(*shape):
            raise GraphError(f"{name} of one attention is {value.type}, of another {plain(*shape)}")
        return value
