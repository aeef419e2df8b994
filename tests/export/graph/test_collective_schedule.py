import pytest
from hypothesis import given

from mpsplit.errors import ConvertError
from mpsplit.export.graph.collective_schedule import check_schedules
from mpsplit.export.trace.capture import check_calls, expected_calls
from mpsplit.export.trace.slicing import neighbours
from mpsplit.package.collectives import Call
from mpsplit.plan.shards import even_plan, lay_out
from tests.layouts import layouts
from tests.models import facts


@pytest.mark.parametrize("tensor, pipeline", [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2), (1, 5)])
def test_what_a_plan_asks_for_meets(tensor, pipeline):
    plan = even_plan(facts(), tensor, pipeline)
    check_schedules(plan, [expected_calls(plan, rank) for rank in range(plan.ranks)])


@given(layouts())
def test_what_any_plan_asks_for_meets(layout):
    plan = lay_out(*layout)
    check_schedules(plan, [expected_calls(plan, rank) for rank in range(plan.ranks)])
    for rank, shard in enumerate(plan.shards):
        source, targets = neighbours(plan, rank)
        assert (source is None) == (shard.stage == 0) and all(neighbours(plan, peer)[0] == rank for peer in targets)
        if source is not None:
            assert plan.shards[source].stage == shard.stage - 1 and rank in neighbours(plan, source)[1]


def test_megatron_form_has_two_sums_a_layer_and_one_for_the_embedding():
    plan = even_plan(facts(), 2, 1)
    assert expected_calls(plan, 0) == (Call("all_reduce", (1,)),) * (2 * 5 + 1)
    plan = even_plan(facts(), 1, 2)
    assert expected_calls(plan, 0) == (Call("send", (0, 1)),) and expected_calls(plan, 1) == (Call("recv", (0, 0)),)


def test_a_missing_sum_is_found_in_the_graph():
    plan = even_plan(facts(), 2, 1)
    expected = expected_calls(plan, 1)
    with pytest.raises(
        ConvertError,
        match=r"rank 1 has 10 collectives, the plan asks for 11; at 10: nothing instead of all_reduce\(group=1\)",
    ):
        check_calls(expected[:-1], expected, 1)


def test_ranks_that_differ_are_shown_with_both_lists():
    plan = even_plan(facts(), 2, 1)
    mine, theirs = [Call("all_reduce", (1,))], [Call("broadcast", (1, 0))]
    with pytest.raises(
        ConvertError,
        match=r"ranks 0 and 1 .* deadlock: \[all_reduce\(group=1\)\] against \[broadcast\(group=1, root=0\)\]",
    ):
        check_schedules(plan, [tuple(mine), tuple(theirs)])


def test_a_send_without_its_recv_is_found():
    plan = even_plan(facts(), 1, 2)
    with pytest.raises(ConvertError, match="rank 0 sending to 1, and 1 receiving, do not meet"):
        check_schedules(plan, [expected_calls(plan, 0), ()])
