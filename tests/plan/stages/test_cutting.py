"""Where a graph is cut, on graphs made by hand."""

import pytest

from mpsplit.errors import PlanError
from mpsplit.plan.stages import cutting
from tests.networks import graph_of, node


def chain(*flops: int):
    """Nodes one after the other, each in a module of its own."""
    names = ["x", *(f"n{i}" for i in range(len(flops)))]
    return graph_of(*(node(f"n{i}", names[i], work, module=f"layers.{i}") for i, work in enumerate(flops)))


@pytest.mark.parametrize(
    "flops, stages, cuts",
    [
        ((8, 8, 8, 8), 2, (2,)),
        ((8, 8, 8, 8), 4, (1, 2, 3)),
        ((30, 1, 1, 1, 27), 2, (1,)),  # 30 and 30
        ((1, 1, 1, 1, 8), 2, (4,)),
        ((5,), 1, ()),
    ],
)
def test_stages_are_as_equal_as_they_can_be(flops, stages, cuts):
    assert cutting.balanced(chain(*flops), stages) == cuts


def test_more_stages_than_places_are_refused_with_the_numbers():
    with pytest.raises(PlanError, match="2 places where it can be cut, 4 stages were asked for; give --stages 1 to 3"):
        cutting.balanced(chain(1, 2, 3), 4)


def residual():
    """x -> embed -> (norm, wide) + embed -> ... : one value alone crosses between the halves."""
    nodes, stream = [node("embed", "x", 10, module="embed")], "embed"
    for i in range(3):
        nodes += [
            node(f"norm{i}", stream, 1, module=f"layers.{i}.norm"),
            node(f"wide{i}", f"norm{i}", 60, module=f"layers.{i}.mlp"),
            node(f"add{i}", f"wide{i} {stream}", 1, module=f"layers.{i}"),
        ]
        stream = f"add{i}"
    return graph_of(*nodes, node("head", stream, 10, module="head"))


@pytest.mark.parametrize("stages", range(1, 6))
def test_cuts_lie_where_one_value_carries_all(stages):
    graph = residual()
    cuts = cutting.balanced(graph, stages)
    assert len(cuts) == stages - 1
    assert all(len(cutting.crossing(graph, place)) == 1 for place in cuts)


def test_the_design_is_found_embedding_halves_and_head():
    assert cutting.balanced(residual(), 5) == (1, 4, 7, 10)


def test_where_there_are_too_few_such_places_a_cut_is_wider():
    graph = residual()
    assert any(len(cutting.crossing(graph, place)) == 2 for place in cutting.balanced(graph, 8))


def test_a_cut_prefers_the_border_of_a_module():
    inside = graph_of(
        node("a", "x", 100, module="one.deep.inside"),
        node("b", "a", 1, module="one.deep.inside"),
        node("c", "b", 1, module="two"),
        node("d", "c", 100, module="two.deep"),
    )
    assert cutting.balanced(inside, 2) == (2,)


def test_a_tuple_stays_with_who_takes_from_it():
    graph = graph_of(node("a", "x", 9), node("parts", "a", splits=True), node("one", "parts"), node("b", "one", 9))
    assert cutting.places(graph) == [1, 3]


def test_modules_say_where_a_stage_begins():
    graph = residual()
    assert cutting.at_modules(graph, ["layers.1", "head"]) == (4, 10)
    assert cutting.at_modules(graph, ["embed"]) == ()
    with pytest.raises(PlanError, match="--stages layers.7: the graph has no such module"):
        cutting.at_modules(graph, ["layers.7"])
