"""No two values that live at once overlap, and the arena is hardly longer than any must be."""

from itertools import combinations

import pytest
from hypothesis import given, settings

from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.shown.arena import Arena, lifetimes, plan_arena
from tests.graphs import decoder, graphs

NUMBERS = {"rows": 5, "length": 3, "past": 11, "answers": 1}


def check(arena: Arena):
    for a, b in combinations(arena.placed, 2):
        assert not a.beside(b) or a.stop <= b.offset or b.stop <= a.offset, f"{a} and {b} overlap"
    live = {step for value in arena.placed for step in (value.first, value.last)}
    sums = [sum(v.bytes for v in arena.placed if v.first <= step <= v.last) for step in live]
    assert arena.bound == max(sums, default=0) <= arena.bytes
    assert arena.bytes == max((value.stop for value in arena.placed), default=0)


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_values_that_live_at_once_do_not_overlap(graph):
    check(plan_arena(graph, NUMBERS))


@pytest.mark.parametrize("rows", [1, 128])
def test_the_arena_of_a_decoder_is_as_short_as_can_be(rows):
    arena = plan_arena(folded(decoder(6)), {"rows": rows})
    check(arena)
    assert arena.bytes == arena.bound
    assert arena == plan_arena(folded(decoder(6)), {"rows": rows}), "it depends on nothing else"
    deeper = plan_arena(folded(decoder(12)), {"rows": rows})
    assert (deeper.bytes, deeper.bound) == (arena.bytes, arena.bound), "layers use the same bytes again"


def test_a_value_lives_until_it_is_read_last_and_an_output_to_the_end():
    g = GraphBuilder("lives")
    x = g.input("x", "f32[rows, 8]")
    a = g.step("silu", x, name="a")
    b = g.step("silu", a, name="b")
    c = g.step("add", a, b, name="c")
    g.output(b)
    d = g.step("add", c, b, name="d")
    g.output(g.step("silu", d, name="e"))
    lives = {value.name: (value.first, value.last, value.bytes) for value in lifetimes(g.graph(), {"rows": 3})}
    # a is read after b was made of it; nobody reads d after e
    assert lives == {"a": (0, 2, 128), "b": (1, 4, 128), "c": (2, 3, 128), "d": (3, 4, 128)}
    named = lifetimes(g.graph(), {"rows": 3}, inputs=True)
    assert [(value.name, value.first, value.last) for value in named][:2] == [("x", -1, 2), ("b", 1, 4)]


def test_heads_are_the_bytes_of_their_rows():
    g = GraphBuilder("heads")
    x = g.step("add_number", g.input("x", "f32[rows, 32]"), number=1)
    heads = g.step("split_heads", x, heads=2)
    g.output(g.step("add", g.step("join_heads", g.step("swap", g.step("swap", heads))), x, name="sum"))
    lives = [(value.name, value.first, value.last) for value in lifetimes(g.graph(), {"rows": 3})]
    assert lives == [("add_number", 0, 5), ("swap", 2, 3), ("swap_2", 3, 5), ("sum", 5, 5)]
