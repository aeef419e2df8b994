import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import PlanError
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Plan, Range, even_plan


def facts(**changes) -> ModelFacts:
    given = dict(
        architecture="LlamaForCausalLM", hidden=64, layers=5, heads=8, kv_heads=4, head_dim=8, mlp=96, vocabulary=131,
        context=128, tied=False,
    )  # fmt: skip
    return ModelFacts(**given | changes)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 9), st.integers(1, 300))
def test_even_plans_cover_every_model_they_divide(tensor, pipeline, layers, vocabulary):
    f = facts(heads=4 * tensor, kv_heads=2 * tensor, mlp=6 * tensor, layers=layers + pipeline, vocabulary=vocabulary)
    plan = even_plan(f, tensor, pipeline)
    assert plan.ranks == tensor * pipeline
    assert sum(len(s.layers) for s in plan.shards) == tensor * f.layers
    assert sum(len(s.head) for s in plan.shards) == sum(len(s.embed) for s in plan.shards) == vocabulary
    assert max(len(s.layers) for s in plan.shards) - min(len(s.layers) for s in plan.shards) <= 1
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_what_does_not_divide_is_refused_with_what_would_work():
    with pytest.raises(PlanError, match=r"8 attention heads do not divide by 3 ranks evenly; use --tensor 1, 2 or 4"):
        even_plan(facts(), 3, 1)
    with pytest.raises(PlanError, match=r"4 KV heads do not divide by 8 ranks"):
        even_plan(facts(), 8, 1)
    with pytest.raises(PlanError, match=r"5 layers do not make 6 pipeline stages"):
        even_plan(facts(), 1, 6)
    with pytest.raises(PlanError, match="at least 1"):
        even_plan(facts(), 0, 1)


def test_groups_are_the_ranks_of_a_stage():
    plan = even_plan(facts(), 2, 2)
    assert plan.stages == ((0, 1), (2, 3))
    assert plan.group(3) == (2, 3)


@pytest.mark.parametrize(
    "rank, field, value, message",
    [
        (1, "mlp", [49, 96], "mlp of stage 0: a hole at 48"),
        (1, "mlp", [47, 96], "mlp of stage 0: an overlap at 48"),
        (1, "head", [66, 130], "head rows of the last stage: ranges end at 130, the model has 131"),
        (1, "kv_heads", [2, 3], "ranges end at 3, the model has 4"),
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
    with pytest.raises(PlanError, match="each KV head serves 2 query heads"):
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
    with pytest.raises(PlanError, match="a shard has the fields"):
        Plan.load(tmp_path / "plan.json")


def test_ranges():
    assert len(Range(2, 5)) == 3 and str(Range(2, 5)) == "2..5" and str(Range(4, 4)) == "-"
    assert Range(2, 5).scaled(8) == Range(16, 40)
