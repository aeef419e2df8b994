import numpy as np
import pytest

from mpsplit.plan.cuts import part_of
from mpsplit.plan.shards import even_plan
from tests.plan.test_shards import facts

SHAPES = {  # in steps of hidden 64, 8 heads of 8, 4 KV heads, MLP 96, vocabulary 131
    "model.embed_tokens.weight": (131, 64),
    "model.layers.3.self_attn.q_proj.weight": (64, 64),
    "model.layers.3.self_attn.q_proj.bias": (64,),
    "model.layers.3.self_attn.k_proj.weight": (32, 64),
    "model.layers.3.self_attn.o_proj.weight": (64, 64),
    "model.layers.3.mlp.gate_proj.weight": (96, 64),
    "model.layers.3.mlp.down_proj.weight": (64, 96),
    "lm_head.weight": (131, 64),
}
REPLICATED = ("model.layers.3.self_attn.o_proj.bias", "model.layers.3.input_layernorm.weight", "model.norm.weight")


@pytest.mark.parametrize("tensor, pipeline", [(1, 1), (2, 1), (4, 1), (2, 2), (1, 5)])
@pytest.mark.parametrize("name", SHAPES)
def test_the_parts_of_the_ranks_put_together_are_the_weight(name, tensor, pipeline):
    whole = np.arange(np.prod(SHAPES[name])).reshape(SHAPES[name])
    parts = [part_of(name, shard, facts()) for shard in even_plan(facts(), tensor, pipeline).shards]
    owned = [part for part in parts if part]
    assert len(owned) == tensor
    axis = owned[0].axis
    cut = [np.take(whole, range(p.range.start, p.range.stop), axis=axis) for p in owned]
    assert np.array_equal(np.concatenate(cut, axis=axis), whole)


@pytest.mark.parametrize("name", REPLICATED)
def test_what_is_not_cut_is_whole_on_every_rank_of_its_stage(name):
    parts = [part_of(name, shard, facts()) for shard in even_plan(facts(), 2, 2).shards]
    owned = [part for part in parts if part]
    assert len(owned) == 2 and all(part.axis is None for part in owned)
