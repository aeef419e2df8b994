"""Predicted beside measured: what a report holds, with and without machines to predict for."""

import pytest

from mpsplit.comm.link_counts import nothing
from mpsplit.measure.bench import Work
from mpsplit.measure.report import parts_of, show, speed_of
from mpsplit.plan.cluster import described
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.account.account import Account
from mpsplit.runtime.loop.loop_protocol import Stats
from tests.models import facts

ACCOUNTS = (Account(10_000, 90 << 20, 5_000_000, 1_000_000, 9_000_000, 3_000_000, passed=nothing(2)),) * 2
STATS = Stats(16, 4, 4, 100.0, 50.0, 0.1, 20_000, (90 << 20,) * 2, ACCOUNTS)


def placed(**machines) -> Placed:
    return Placed(even_plan(facts(), 2, 1), described([1 << 30] * 2, **machines), Job())


def test_a_report_has_both_of_every_part():
    parts = {part.name: part for part in parts_of(facts(), STATS, placed(), "q4", 8)}
    assert parts["first token"].measured == 100 and parts["a token"].measured == pytest.approx(20)
    assert parts["bytes a token"].measured == pytest.approx(20_000 / (12 + 3))
    assert parts["bytes a token"].predicted == 2 * (2 * 5 + 1) * 64 * 4
    assert parts["rank 1: computing"].measured == pytest.approx(2.0)  # 6 ms over 3 steps
    assert parts["rank 1: between ranks"].measured == pytest.approx(1.0)
    assert parts["rank 0: memory"].measured == 90
    assert all(part.predicted > 0 for part in parts.values())


def test_slower_links_are_predicted_between_ranks():
    near, far = (
        {part.name: part.predicted for part in parts_of(facts(), STATS, placed(latency=s), "q4", 8)}
        for s in (1e-6, 1e-3)
    )
    assert far["rank 0: computing"] == near["rank 0: computing"]
    assert far["rank 0: between ranks"] - near["rank 0: between ranks"] == pytest.approx(11 * 0.999, rel=1e-3)


def test_without_machines_there_is_no_prediction_and_it_says_how_to_get_one(capsys):
    parts = parts_of(facts(), STATS, None, "q4", 8)
    assert {part.predicted for part in parts} == {None}
    show(parts, None, ACCOUNTS)
    assert "mpsplit probe" in capsys.readouterr().err
    show(parts_of(facts(), STATS, placed(), "q4", 8), placed(), ACCOUNTS)
    printed = capsys.readouterr().err
    assert "nobody has measured" in printed and "rank 1: memory" in printed


def test_what_bench_should_find():
    speeds = speed_of(facts(), placed(), "q4", Work((32, 64), 16), 32)
    assert set(speeds) == {"decode", "prefill 32", "prefill 64"} and all(speed > 0 for speed in speeds.values())
