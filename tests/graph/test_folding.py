"""Equal layers are folded, and nothing else: unfolded, a graph is what it was."""

import pytest
from hypothesis import given, settings

from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.folding.name_templates import Template
from mpsplit.graph.folding.unfolding import unfolded
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.graph_checks import check_graph
from mpsplit.graph.graph_parser import parse_graph
from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.typed_graph import Repeat
from tests.graphs import decoder, graphs, without_names

SCREEN = 50  # lines


def repeats(graph):
    return [step for step in graph.body.steps if isinstance(step, Repeat)]


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_folding_and_unfolding_change_no_step(graph):
    flat = unfolded(graph)
    check_graph(flat)
    again = folded(flat)
    check_graph(again)
    assert without_names(again) == without_names(flat) == without_names(graph)


def test_eighty_layers_are_read_on_one_screen():
    flat = decoder(80)
    graph = folded(flat)
    assert without_names(graph) == without_names(flat)
    assert len(graph_text(graph).splitlines()) <= SCREEN
    (repeat,) = repeats(graph)
    assert repeat.turns == range(80) and len(repeat.body.steps) == 13
    assert repeat.body.weights[0].source == "model.layers.{layer}.norm.weight"
    assert parse_graph(graph_text(graph)) == graph


def test_layers_that_differ_by_turns():
    flat = decoder(8, by_turns=2)
    (repeat,) = repeats(folded(flat))
    assert repeat.turns == range(4) and len(repeat.body.steps) == 26
    sources = {given.source for given in repeat.body.weights if "norm" in given.source}
    assert sources == {"model.layers.{2*layer}.norm.weight", "model.layers.{2*layer+1}.norm.weight"}
    assert without_names(folded(flat)) == without_names(flat)


def rows_of_norms(read_first: bool, skip: bool = False):
    """Five layers of four steps; after the third one's number, one may be left out."""
    g = GraphBuilder("norms")
    x = first = g.input("hidden", "f32[rows, 8]")
    seen = []
    for i in range(5):
        place = i + (skip and i > 2)
        y = g.step("rms_norm", x, g.weight("norm.weight", "f32[8]", f"layers.{place}.norm"))
        x = g.step("silu", g.step("add", x, g.step("silu", y)))
        seen.append(y)
    if read_first:
        x = g.step("add", x, seen[0])
    g.output(x)
    g.output(first, "same")
    return g.graph()


def test_layers_whose_numbers_do_not_follow_are_two_repeats():
    graph = folded(rows_of_norms(False, skip=True))
    assert [repeat.turns for repeat in repeats(graph)] == [range(3), range(4, 6)]
    assert without_names(graph) == without_names(rows_of_norms(False, skip=True))


def test_what_is_read_from_an_inner_layer_keeps_that_layer_out():
    flat = rows_of_norms(True)
    graph = folded(flat)
    check_graph(graph)
    assert without_names(graph) == without_names(flat)
    assert all(repeat.first > 0 for repeat in repeats(graph))


def test_outputs_of_each_layer_have_the_index_in_their_names():
    g = GraphBuilder("outputs")
    x = g.input("hidden", "f32[rows, 8]")
    for i in range(3):
        past = g.input(f"past{i}", "f32[rows, 8]")
        x = g.step("silu", g.step("add", g.step("add", x, g.weight("w", "f32[1, 8]", f"layers.{i + 4}.w")), past))
        g.output(x, f"k{i}")
    graph = folded(g.graph())
    (repeat,) = repeats(graph)
    assert repeat.turns == range(4, 7)
    assert [given.source for given in repeat.body.given] == ["past{layer-4}", "layers.{layer}.w"]
    assert [output.name for output in repeat.body.outputs] == ["k{layer-4}"]
    assert without_names(graph) == without_names(g.graph())


@pytest.mark.parametrize(
    "first, second, text",
    [
        ("layers.2.w", "layers.3.w", "layers.{layer}.w"),
        ("k0", "k1", "k{layer-2}"),
        ("a.1.b.5", "a.1.b.9", "a.1.b.{4*layer-3}"),
        ("a.1", "b.2", None),
        ("a.01", "a.02", None),
        ("a", "a", None),
    ],
)
def test_names_as_templates(first, second, text):
    template = Template.of(first, second)
    assert (template and template.text("layer", 2)) == text
