from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from mpsplit.plan.cuts import WHOLE, Part, linears_of, one_matrix, part_of, source_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Range, Share, even_plan, lay_out
from mpsplit.plan.steps import even
from tests.layouts import layouts
from tests.models import facts

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
WITH_HEAD_NORMS = "Qwen3ForCausalLM"
REPLICATED = ("model.layers.3.self_attn.o_proj.bias", "model.layers.3.input_layernorm.weight", "model.norm.weight")


UNEVEN = [(0, [Share(0, 0, embed=131)]), (3, [Share(6, 0), Share(0, 67), Share(2, 29)]), (2, [Share(8, 96, head=131)])]


def owners(name: str, shape: tuple[int, ...], plan: Plan, f: ModelFacts) -> np.ndarray:
    """How many ranks have each element of a weight that is whole again when their parts are written
    at their places."""
    whole = np.arange(np.prod(shape)).reshape(shape)
    result, count = np.full(shape, -1), np.zeros(shape, int)
    for part in filter(None, (part_of(name, shard, f) for shard in plan.shards)):
        place = [slice(None)] * len(shape)
        if part.axis is not None:
            place[part.axis] = slice(part.range.start, part.range.stop)
        result[tuple(place)] = whole[tuple(place)]
        count[tuple(place)] += 1
    assert np.array_equal(result, whole)
    return count


@pytest.mark.parametrize("tensor, pipeline", [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (8, 1), (2, 2), (1, 5)])
@pytest.mark.parametrize("name", SHAPES)
def test_the_parts_of_the_ranks_put_together_are_the_weight(name, tensor, pipeline):
    count = owners(name, SHAPES[name], even_plan(facts(), tensor, pipeline), facts())
    shared = even(tensor, 4) if "k_proj" in name and tensor > 4 else [1]  # ranks of each KV head
    assert set(count.flat) == set(shared)


@given(layouts())
def test_any_shares_put_together_are_the_weights(layout):
    f, stages = layout
    f = replace(f, architecture=WITH_HEAD_NORMS)
    plan = lay_out(f, stages)
    sizes = {
        "heads": f.heads * f.head_dim,
        "kv_heads": f.kv_heads * f.head_dim,
        "mlp": f.mlp,
        "embed": f.vocabulary,
        "head": f.vocabulary,
    }
    for module, role in f.family.modules.items():
        cut = role.cut
        for layer in range(f.layers) if "*" in module else [0]:
            shape = {"colwise": (sizes.get(cut.along), 2), "rowwise": (2, sizes.get(cut.along)), "whole": (2,)}[
                cut.style
            ]
            count = owners(module.replace("*", str(layer)) + ".weight", shape, plan, f)
            assert (count == 1).all() or cut.style == "whole" or cut.along == "kv_heads"


@pytest.mark.parametrize("name", REPLICATED)
def test_what_is_not_cut_is_whole_on_every_rank_of_its_stage(name):
    parts = [part_of(name, shard, facts()) for shard in even_plan(facts(), 2, 2).shards]
    owned = [part for part in parts if part]
    assert len(owned) == 2 and all(part.axis is None for part in owned)


def test_a_bias_after_the_sum_is_on_ranks_without_columns_too():
    f = facts(architecture=WITH_HEAD_NORMS)
    shards = lay_out(f, UNEVEN).shards
    for layer, ranks in ((0, [1, 2, 3]), (4, [4])):
        for module in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{module}.bias"
            assert [s.rank for s in shards if part_of(name, s, f)] == ranks
    assert part_of("model.layers.0.self_attn.o_proj.weight", shards[2], f) is None
    assert part_of("model.layers.0.self_attn.q_norm.weight", shards[2], f) is None


def test_the_shape_of_a_part():
    assert WHOLE.shape_of((131, 64)) == (131, 64)
    assert Part(0, Range(10, 13)).shape_of((131, 64)) == (3, 64)
    assert Part(1, Range(10, 13)).shape_of((131, 64)) == (131, 3)
    assert Part(0, Range(10, 13)).shape_of((131,)) == (3,)


def test_linears_layer_by_layer_and_the_head_last():
    names = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    each = [[f"model.layers.{layer}.{name}.weight" for name in names] for layer in range(2)]
    found = linears_of(facts(layers=2))
    assert [set(found[:7]), set(found[7:14]), found[14:]] == [set(each[0]), set(each[1]), ["lm_head.weight"]]


def test_a_tied_head_is_the_embedding_of_the_checkpoint():
    tied, untied, up = facts(tied=True), facts(), "model.layers.0.mlp.up_proj.weight"
    assert source_of("lm_head.weight", tied) == "model.embed_tokens.weight"
    assert source_of("lm_head.weight", untied) == "lm_head.weight"
    assert source_of(up, tied) == source_of(up, untied) == up


def test_one_matrix_where_ranks_have_the_same_rows_of_both_ends():
    tied = facts(tied=True)
    even_rows = even_plan(tied, 2, 1)
    first, second = even_rows.shards
    apart = Plan((replace(first, head=Range(0, 10)), replace(second, head=Range(10, 131)))).check(tied)
    everything, nothing = Range(0, 131), Range(131, 131)
    uneven = (replace(first, embed=everything, head=everything), replace(second, embed=Range(0, 0), head=nothing))
    assert one_matrix(even_rows, tied) and one_matrix(Plan(uneven).check(tied), tied)
    assert not one_matrix(apart, tied) and not one_matrix(even_plan(tied, 2, 2), tied)
    assert not one_matrix(even_rows, replace(tied, tied=False))
