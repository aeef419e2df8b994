"""What making a package takes, beside what bench/conversion.py measured from outside."""

from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.making import MAKING, calibrating, stage_converting, verifying
from mpsplit.plan.shards import even_plan

FACTS = ModelFacts("LlamaForCausalLM", 2048, 3, 32, 4, 64, 5632, 32000, 2048, tied=False)
SHARD = even_plan(FACTS, 2, 1).shards[0]
CALIBRATED = 1_148_000_000  # bytes of a rank of these two, with 16384 tokens
STAGE = 151_000_000, 1_312_000_000  # bytes of a stage's weights, of the process that converted it


def test_a_little_more_than_was_measured():
    assert CALIBRATED < MAKING + calibrating(FACTS, SHARD, 16384) < 1.1 * CALIBRATED
    assert STAGE[1] < stage_converting(STAGE[0]) < 1.3 * STAGE[1]


def test_a_verified_rank_has_its_weights_twice():
    layer = (2 * 32 + 2 * 4) * 64 // 2 * 2048 + 3 * 5632 // 2 * 2048
    rows = len(SHARD.embed) + len(SHARD.head)
    assert verifying(FACTS, SHARD) == 2 * 4 * (3 * layer + rows * 2048)
