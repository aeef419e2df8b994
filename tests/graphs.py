"""Graphs as tests make them: a decoder written by hand, any that hypothesis thinks of, and what two
have in common when their names are left out."""

from __future__ import annotations

from hypothesis import strategies as st

from mpsplit.graph.folding.unfolding import unfolded
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.typed_graph import Graph, Step, Value

ROWS = ("rows", "length", "7", "past+rows", "2*rows+1")
COLUMNS = (32, 64, 96)
TITLES = st.text(max_size=20).filter(str.isprintable)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)  # what ncnn reads
DEEPEST = 2  # repeats in repeats
KINDS = ("q4x32", "q8x32", "bf16x32", "q2x32")


def decoder(layers: int, hidden: int = 128, mlp: int = 256, by_turns: int = 1) -> Graph:
    """A flat one. Of `by_turns` layers that follow each other each has another scale."""
    g = GraphBuilder(f"{layers} layers")
    x = g.step("all_reduce", g.input("hidden", f"f32[rows, {hidden}]"), group=1)
    for i in range(layers):
        x = _layer(g, x, i, mlp, 0.25 + i % by_turns)
    g.output(x, "hidden_out")
    return g.graph()


def _layer(g: GraphBuilder, x: Value, i: int, mlp: int, scale: float) -> Value:
    hidden, name = x.type.shape[-1], f"model.layers.{i}"
    heads = hidden.value({}) // 16

    def linear(of: Value, what: str, n: object, k: object) -> Value:
        weight = g.weight(f"{what}.weight", f"q4x32[{n}, {k}] panels", f"{name}.{what}.weight")
        return g.step("linear", of, weight, name=what)

    norm = g.step("rms_norm", x, g.weight("norm.weight", f"f32[{hidden}]", f"{name}.norm.weight"), epsilon=1e-6)
    q, k, v = (linear(norm, f"{w}_proj", hidden, hidden) for w in "qkv")
    found = g.step("attention", q, k, v, heads=heads, kv_heads=heads, head_dim=16, scale=scale)
    x = g.step("add", x, g.step("all_reduce", linear(found, "o_proj", hidden, hidden), group=1))
    up = g.step("silu", linear(x, "up_proj", mlp, hidden))
    return g.step("add", x, g.step("all_reduce", linear(up, "down_proj", hidden, mlp), group=1))


@st.composite
def graphs(draw) -> Graph:
    g = GraphBuilder(draw(TITLES))
    start = g.input("hidden", f"f32[{draw(st.sampled_from(ROWS))}, {draw(st.sampled_from(COLUMNS))}]")
    last = draw_steps(draw, g, start)
    g.output(last, draw(st.sampled_from(("logits", last.name, "a/b:c"))))
    return g.graph()


def draw_steps(draw, g: GraphBuilder, value: Value, indices: tuple[str, ...] = ()) -> Value:
    """Each reads the last value; it has the shape of the first in the end, so that it can be
    carried."""
    for _ in range(draw(st.integers(0, 4))):
        kinds = STEPS if len(indices) < DEEPEST else STEPS[:-1]
        value = draw(st.sampled_from(kinds))(draw, g, value, indices)
    return value


def _norm(draw, g: GraphBuilder, value: Value, indices: tuple[str, ...]) -> Value:
    weight = g.weight("norm.weight", f"f32[{value.type.shape[-1]}]", source=_source(draw, g))
    said = {"epsilon": draw(NUMBERS)} if draw(st.booleans()) else {}
    return g.step("rms_norm", value, weight, **said)


def _linear(draw, g: GraphBuilder, value: Value, indices: tuple[str, ...]) -> Value:
    n = value.type.shape[-1]
    count, kind = draw(st.integers(1, 3)), draw(st.sampled_from(KINDS))
    weights: list[Value] = []
    for i in range(count):
        weights.append(g.weight(f"w{i}", f"{kind}[{n}, {n}] panels"))
        weights += [g.weight(f"b{i}", f"f32[{n}]")] * draw(st.booleans())
    if count == 1 and draw(st.booleans()):
        return g.step("linear_add", value, value if draw(st.booleans()) else g.step("silu", value), *weights)
    return g.steps("linear", value, *weights)[-1]


def _sum(draw, g: GraphBuilder, value: Value, indices: tuple[str, ...]) -> Value:
    if draw(st.booleans()):
        return g.step("multiply_number", value, number=draw(NUMBERS))
    return g.step("subtract", value, g.step("all_reduce", value, group=draw(st.integers(0, 1))), name="difference")


def _heads(draw, g: GraphBuilder, value: Value, indices: tuple[str, ...]) -> Value:
    heads = g.step("swap", g.step("split_heads", value, heads=draw(st.sampled_from((2, 4)))))
    return g.step("join_heads", g.step("swap", heads))


def _repeat(draw, g: GraphBuilder, value: Value, indices: tuple[str, ...]) -> Value:
    inside = (*indices, f"index_{len(indices)}")

    def body(inner: GraphBuilder, x: Value) -> Value:
        after = draw_steps(draw, inner, x, inside)
        if draw(st.booleans()):
            inner.output(after, "/".join([after.name, *(f"{{{index}}}" for index in inside)]))
        return after

    first = draw(st.integers(0, 3))
    return g.repeat(inside[-1], range(first, first + draw(st.integers(1, 3))), {"x": value}, body)[0]


def _source(draw, g: GraphBuilder) -> str:
    return draw(st.sampled_from(("model.norm.weight", "a-b/c.0", "x")))


STEPS = (_norm, _linear, _sum, _heads, _repeat)


def without_names(graph: Graph) -> tuple[list[object], dict[str, object]]:
    """Steps in their order, and outputs: what is given by its name outside, all other values by
    numbers."""
    body = unfolded(graph).body
    number: dict[str, object] = {given.name: (given.source, given.type) for given in body.given}
    lines: list[object] = []
    for i, step in enumerate(body.steps):
        assert isinstance(step, Step)
        types = tuple(value.type for value in step.makes)
        lines.append((step.operator, step.attributes, types, tuple(number[name] for name in step.reads)))
        number |= {value.name: (i, j) for j, value in enumerate(step.makes)}
    return lines, {output.name: number[output.value] for output in body.outputs}
