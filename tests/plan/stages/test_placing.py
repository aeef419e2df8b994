"""Runs of stages on machines."""

import pytest

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import described
from mpsplit.plan.stages.placing import StageCost, even_ends, placed, priced

GIB = 1 << 30


def stages(*flops: int, weights: int = 4):
    return [StageCost(f"s{i}", weights, work, 100) for i, work in enumerate(flops)]


def test_equal_machines_get_equal_work():
    plan = placed(stages(*[10**9] * 6), described([GIB] * 3))
    assert plan.ends == (2, 4, 6)
    assert even_ends(stages(*[10**9] * 6), 3) == (2, 4, 6)


def test_a_machine_that_computes_less_gets_less():
    cluster = described([GIB, GIB])
    slow = described([GIB], flop=25e9).devices[0]
    uneven = described([GIB, GIB]).only([0, 1])
    uneven = type(uneven)((slow, cluster.devices[1]), local=cluster.local, remote=cluster.remote)
    plan = placed(stages(*[10**10] * 10), uneven)
    assert plan.ends == (2, 10)
    assert max(share.seconds for share in plan.ranks) < priced(stages(*[10**10] * 10), uneven, (5, 10)).ranks[0].seconds


def test_no_machine_gets_more_than_it_can_hold():
    small, large = 200 << 20, 2 << 30
    plan = placed(stages(*[10**9] * 4, weights=100 << 20), described([small, large]))
    assert plan.ends == (1, 4)
    with pytest.raises(PlanError, match="the stages need 419,430,400 bytes in f32, and no runs of them fit the 2"):
        placed(stages(*[10**9] * 4, weights=100 << 20), described([small, small]))


def test_fewer_bits_need_less_room():
    small = 200 << 20
    assert placed(stages(*[10**9] * 4, weights=100 << 20), described([small, small]), "q8").ends == (2, 4)


def test_every_rank_needs_a_stage():
    for make in (lambda: placed(stages(1, 1), described([GIB] * 3)), lambda: even_ends(stages(1, 1), 3)):
        with pytest.raises(PlanError, match="2 stages cannot be given to 3 ranks, each needs one"):
            make()
