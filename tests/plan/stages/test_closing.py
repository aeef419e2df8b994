"""What a stage takes, gives and has for itself, on graphs made by hand."""

from dataclasses import replace

import pytest

from mpsplit.errors import PlanError
from mpsplit.plan.stages.closing import check_closed, closed
from tests.networks import graph_of, node


def test_a_skip_travels_and_a_stage_gives_to_several():
    graph = graph_of(node("a", "x", 1), node("b", "a", 100, 4), node("c", "b", 100), node("d", "c a", 1))
    stages = closed(graph, (1, 2, 3))
    assert [stage.inputs for stage in stages] == [("x",), ("a",), ("b",), ("c", "a")]
    assert [stage.outputs for stage in stages] == [("a",), ("b",), ("c",), ("d",)]


def test_a_weight_that_two_stages_read_is_in_both_and_is_named():
    graph = graph_of(
        node("a", "x", weights=("tied", "own")), node("b", "a", weights=("tied",)), weights={"tied": 40, "own": 8}
    )
    first, second = closed(graph, (1,))
    assert (first.weights, first.shared, first.bytes) == (("tied", "own"), ("tied",), 48)
    assert (second.weights, second.shared, second.bytes) == (("tied",), ("tied",), 40)


def test_a_large_value_of_small_things_is_computed_again():
    mask = node("mask", "ids", flops=100, size=10_000)
    graph = graph_of(mask, node("a", "x mask", 1, 40), node("b", "a mask", 1, 40), inputs={"x": 40, "ids": 400})
    first, second = closed(graph, (2,))
    assert second.inputs == ("ids", "a") and second.copied == ("mask",) and second.nodes == ("mask", "b")
    assert first.outputs == ("a",)


@pytest.mark.parametrize("change", [dict(bytes=300), dict(flops=10**9), dict(weights=("large",))])
def test_it_is_sent_where_that_is_less(change):
    mask = replace(node("mask", "ids", flops=100, size=10_000), **change)
    graph = graph_of(
        mask, node("a", "x mask", 1, 40), node("b", "a mask", 1, 40),
        inputs={"x": 40, "ids": 400}, weights={"large": 20_000},
    )  # fmt: skip
    first, second = closed(graph, (2,))
    assert second.inputs == ("a", "mask") and not second.copied and first.outputs == ("mask", "a")


def test_what_follows_from_the_length_is_made_in_each_stage():
    graph = graph_of(
        node("a", "x causal"), node("b", "a causal"), inputs={"x": 4, "causal": 99}, made=frozenset(["causal"])
    )
    for stage in closed(graph, (1,)):
        assert stage.made == ("causal",) and "causal" not in stage.inputs


def test_stages_are_named_for_what_they_do():
    graph = graph_of(
        node("a", "x", 10, module="vit.embed"),
        node("norm", "a", 1, module="vit.layers.0.norm"),
        node("q", "norm", 90, module="vit.layers.0.attention.q"),
        node("add", "q a", 1, module="vit.layers.0"),
        node("wide", "add", 90, module="vit.layers.0.mlp"),
        node("last", "wide", 1, module="vit.norm"),
    )
    assert [stage.name for stage in closed(graph, (1, 4))] == ["vit.embed", "vit.layers.0.attention", "vit.layers"]


def test_a_stage_that_is_not_closed_is_refused_by_name():
    graph = graph_of(node("a", "x"), node("b", "a"))
    first, second = closed(graph, (1,))
    with pytest.raises(PlanError, match="stage m-2 is not closed: b reads a, which it does not have"):
        check_closed(graph, [first, replace(second, inputs=())])
    with pytest.raises(PlanError, match="stage m-2 is not closed: no stage before it gives a"):
        check_closed(graph, [replace(first, outputs=()), second])
