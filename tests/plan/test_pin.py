import json
from dataclasses import replace

import pytest

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import described
from mpsplit.plan.pin import pinned
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.sizes import Job
from tests.models import facts

CLUSTER, FACTS = described([1 << 30] * 4), facts(layers=8)
JOB = Job(context=128, prompt=16, new=8)


def pin(text, cluster=CLUSTER):
    return pinned(FACTS, text, cluster, JOB)


def test_a_group_and_a_stage():
    plan, devices = pin("embed=0; layers 0-3=0,1; layers 4-7=2; head=2")
    assert devices == (0, 1, 2) and plan.stages == ((0, 1), (2,))
    assert [str(s.layers) for s in plan.shards] == ["0..4", "0..4", "4..8"]
    assert [len(s.embed) for s in plan.shards] == [131, 0, 0] and [len(s.head) for s in plan.shards] == [0, 0, 131]


def test_weights_divide_the_shares():
    plan, _ = pin("layers 0-7 = 1*7, 0*3")
    assert [len(s.heads) for s in plan.shards] == [6, 2] and [len(s.mlp) for s in plan.shards] == [64, 32]


def test_one_layer_needs_no_last_one():
    plan, devices = pin("layer 0=1; layers 1-7=0")
    assert devices == (1, 0) and [str(s.layers) for s in plan.shards] == ["0..1", "1..8"]


def test_speeds_divide_the_shares():
    plan, _ = pin("layers 0-7=0,1", described([1 << 30] * 2, read=[3e9, 1e9]))
    assert [len(s.heads) for s in plan.shards] == [6, 2]


def test_ends_without_layers_are_stages_of_their_own():
    plan, devices = pin("embed=3; layers 0-7=0,1; head=2")
    assert devices == (3, 0, 1, 2) and plan.stages == ((0,), (1, 2), (3,))
    assert not len(plan.shards[0].layers) and len(plan.shards[0].embed) == 131


@pytest.mark.parametrize(
    "text, message",
    [
        ("layers 0-3=0; layers 5-7=1", "leaves layers 4-4 out"),
        ("layers 0-6=0", "leaves layers 7-7 out"),
        ("layers 0-4=0; layers 4-7=1", "names layer 4 twice"),
        ("layers 0-9=0", "names layer 9; the model has 8, 0 to 7"),
        ("layers 7-0=0", "the first comes first"),
        ("layers 0-7=9", "names device 9; there are 4, 0 to 3"),
        ("layers 0-3=0; layers 4-7=0", "device 0 has two places"),
        ("layers 0-7=0,0", "device 0 has two places"),
        ("embed=1; layers 0-3=0; layers 4-7=1", "device 1 has two places"),
        ("layers 0-7=0,1; head=1,2", "head=1,2: device 2 is not with 0"),
        ("layers 0-7=0,1*3", "give them to all, or to none"),
        ("layers 0-7=0*0,1*3", "gives device 0 the weight 0"),
        ("layers 0-7=0,,1", "where a device or DEVICE"),
        ("embed=0; embed=1; layers 0-7=0", "names embed twice"),
        ("heads=0", "is none of embed=, layers A-B= and head="),
        ("head=0", "names no layers"),
        ("", "names no layers"),
    ],
)
def test_pins_that_cannot_be(text, message):
    with pytest.raises(PlanError, match=message) as wrong:
        pin(text)
    assert "\n" not in str(wrong.value)


def test_a_pin_that_overfills_a_device():
    small = described([1 << 30, 75 << 20])
    plan, devices = pin("layers 0-7=0,1", small)
    with pytest.raises(PlanError, match=r"rank 1 on machine-1 needs 0\.\d+ GiB .* it has 0.07"):
        Placed(plan, small.only(devices), Job(kind="f32", context=1 << 17)).check_room(FACTS)


def test_placed_plans_come_back_from_their_file(tmp_path):
    plan, devices = pin("layers 0-3=2; layers 4-7=1,0")
    placed = Placed(plan, CLUSTER.only(devices), replace(JOB, own=(("down", "k6", 0.5), ("down", "k4", 0.5))))
    placed.save(tmp_path / "plan.json")
    assert Placed.load(tmp_path / "plan.json") == placed == placed.check_room(FACTS)
    assert placed.price(FACTS, new=9) == price(FACTS, plan, CLUSTER.only(devices), replace(placed.job, new=9))


def test_plan_files_without_their_machines(tmp_path):
    path = tmp_path / "plan.json"
    placed = Placed(*pin("layers 0-3=2; layers 4-7=1")[:1], CLUSTER.only([2, 1]), JOB)
    path.write_text(json.dumps(placed.plan.to_json()))
    assert Placed.load(path) is None
    path.write_text(json.dumps(replace(placed, cluster=CLUSTER).to_json()))
    with pytest.raises(PlanError, match="plan.json has 2 ranks on 4 devices; make it again"):
        Placed.load(path)
    for job in ({"colour": "red"}, {"own": [["down", "k9", 0.5]]}, {"own": [["down", "k4", 2.0]]}, {"own": [3]}):
        path.write_text(json.dumps(placed.to_json() | {"job": job}))
        with pytest.raises(PlanError, match="no job that can be read"):
            Placed.load(path)
