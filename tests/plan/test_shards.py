import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import PlanError
from mpsplit.plan.shards import Plan, Range, Share, even_plan, lay_out
from tests.layouts import layouts, models
from tests.models import facts


@given(models(), st.integers(1, 9), st.integers(1, 6))
def test_even_plans_cover_every_model(f, tensor, pipeline):
    pipeline = min(pipeline, f.layers)
    plan = even_plan(f, tensor, pipeline)
    assert plan.ranks == tensor * pipeline
    assert sum(len(s.layers) for s in plan.shards) == tensor * f.layers
    assert sum(len(s.head) for s in plan.shards) == sum(len(s.embed) for s in plan.shards) == f.vocabulary
    assert max(len(s.layers) for s in plan.shards) - min(len(s.layers) for s in plan.shards) <= 1
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(layouts())
def test_any_shares_cover_the_model(layout):
    f, stages = layout
    plan = lay_out(f, stages)
    shares = [share for _, shares in stages for share in shares]
    assert [Share(*map(len, (s.heads, s.mlp, s.embed, s.head))) for s in plan.shards] == shares
    assert [len(plan.shards[group[0]].layers) for group in plan.stages] == [layers for layers, _ in stages]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_kv_heads_go_to_all_ranks_that_have_their_query_heads():
    plan = even_plan(facts(), 5, 1)  # 4 KV heads of 2 query heads each
    assert [str(s.heads) for s in plan.shards] == ["0..1", "1..2", "2..4", "4..6", "6..8"]
    assert [str(s.kv_heads) for s in plan.shards] == ["0..1", "0..1", "1..2", "2..3", "3..4"]
    few = even_plan(facts(heads=2, kv_heads=2), 3, 1)  # fewer heads than ranks: one has none
    assert [(str(s.heads), str(s.kv_heads), s.attentions) for s in few.shards] == [
        ("0..1", "0..1", 5),
        ("-", "-", 0),
        ("1..2", "1..2", 5),
    ]


def test_stages_of_the_embedding_and_of_the_head_alone():
    whole = Share(8, 96)
    plan = lay_out(
        facts(), [(0, [Share(0, 0, embed=131)]), (5, [whole]), (0, [Share(0, 0, head=100), Share(0, 0, head=31)])]
    )
    assert plan.stages == ((0,), (1,), (2, 3))
    with pytest.raises(PlanError, match="stage 1 has no layers, no embedding and no head; leave it out"):
        lay_out(facts(), [(5, [Share(8, 96, embed=131)]), (0, [Share(0, 0)]), (0, [Share(0, 0, head=131)])])
    with pytest.raises(PlanError, match="rank 1 is in stage 1; the embedding belongs to the first stage"):
        lay_out(facts(), [(0, [Share(0, 0, embed=131)]), (5, [Share(8, 96, 1, 131)])])
    with pytest.raises(PlanError, match="rank 0 is in stage 0; .* the head to the last"):
        lay_out(facts(), [(0, [Share(0, 0, 131, 1)]), (5, [Share(8, 96, 0, 131)])])
    with pytest.raises(PlanError, match="mlp of stage 0: ranges end at 96, the model has 0"):
        lay_out(facts(), [(0, [Share(0, 96, embed=131)]), (5, [Share(8, 96, head=131)])])


def test_what_cannot_be_laid_out():
    with pytest.raises(PlanError, match=r"5 layers do not make 6 pipeline stages; use --pipeline 5 or fewer"):
        even_plan(facts(), 1, 6)
    with pytest.raises(PlanError, match="at least 1"):
        even_plan(facts(), 0, 1)
    with pytest.raises(PlanError, match="heads of stage 0: ranges end at 7, the model has 8"):
        lay_out(facts(), [(5, [Share(6, 48, 131, 131), Share(1, 48)])])


def test_groups_are_the_ranks_of_a_stage():
    plan = even_plan(facts(), 2, 2)
    assert plan.stages == ((0, 1), (2, 3))
    assert plan.group(3) == (2, 3)


@pytest.mark.parametrize(
    "rank, field, value, message",
    [
        (1, "mlp", [65, 96], "mlp of stage 0: a hole at 64"),
        (1, "mlp", [63, 96], "mlp of stage 0: an overlap at 64"),
        (1, "head", [96, 130], "head rows of the last stage: ranges end at 130, the model has 131"),
        (1, "kv_heads", [2, 3], "query heads 4..8 and KV heads 2..3; each KV head serves 2 query heads"),
        (1, "kv_heads", [0, 0], "query heads 4..8 and KV heads -;"),
        (1, "layers", [0, 4], "the ranks of stage 0 name different layers"),
        (1, "rank", 7, "shards are ranks"),
    ],
)
def test_a_plan_that_does_not_cover_the_model_says_where(rank, field, value, message):
    data = even_plan(facts(), 2, 1).to_json()
    data["shards"][rank][field] = dict(start=value[0], stop=value[1]) if isinstance(value, list) else value
    with pytest.raises(PlanError, match=message):
        Plan.from_json(data).check(facts())


def test_heads_and_their_kv_heads_stay_together():
    data = even_plan(facts(), 2, 1).to_json()
    for rank, (start, stop) in enumerate([(0, 5), (5, 8)]):
        data["shards"][rank]["heads"] = dict(start=start, stop=stop)
    for first in (2, 3):  # too few KV heads for the query heads; enough, and two that serve 2 and 1
        data["shards"][0]["kv_heads"] = dict(start=0, stop=first)
        with pytest.raises(PlanError, match="each KV head serves 2 query heads"):
            Plan.from_json(data).check(facts())


def test_layers_that_nobody_has():
    data = even_plan(facts(), 2, 1).to_json()
    for shard in data["shards"]:
        shard["layers"]["stop"] = 4
    with pytest.raises(PlanError, match="^layers: ranges end at 4, the model has 5"):
        Plan.from_json(data).check(facts())


def test_plan_files(tmp_path):
    with pytest.raises(PlanError, match="there is no plan at"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="is not JSON"):
        Plan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(json.dumps(even_plan(facts(), 1, 1).to_json() | {"version": 99}))
    with pytest.raises(PlanError, match="version 99, this mpsplit reads 1"):
        Plan.load(tmp_path / "plan.json")
    broken = even_plan(facts(), 1, 1).to_json()
    del broken["shards"][0]["mlp"]
    (tmp_path / "plan.json").write_text(json.dumps(broken))
    with pytest.raises(PlanError, match=r"shards\[0\] has the fields"):
        Plan.load(tmp_path / "plan.json")


def test_ranges():
    assert len(Range(2, 5)) == 3 and str(Range(2, 5)) == "2..5" and str(Range(4, 4)) == "-"
    assert Range(2, 5).scaled(8) == Range(16, 40)
