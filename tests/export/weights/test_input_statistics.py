"""Statistics of the split model's inputs against the whole model's. On 1, 2 and 4 ranks."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mpsplit.errors import ConvertError
from mpsplit.export.weights.input_statistics import Holding, Statistics, filled, gathering, is_held, statistics
from mpsplit.plan.cuts import part_of
from tests.cases import splits

SEQUENCES = [list(range(3, 40)), list(range(90, 60, -1)), [7]]


def whole(folder) -> dict[str, Statistics]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode(), gathering(model, "") as sums:
        for tokens in SEQUENCES:
            model(torch.tensor([tokens]))
    return {name.removeprefix("."): s.statistics() for name, s in sums.items()}


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", ("llama-bias", "mistral-window"))
def test_they_are_the_whole_models(world, loop_of, family, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    loop, trial = loop_of(family, *cuts[index])
    shard, facts = loop.engine.manifest.plan.shards[world.rank], loop.facts
    found = {}
    for _, layer in statistics(loop.engine, SEQUENCES):
        found |= layer
    expected = whole(trial.folder)
    assert len(found) == 7 * len(shard.layers) + bool(len(shard.head))
    for name, mine in found.items():
        part = part_of(name, shard, facts)
        columns = slice(part.range.start, part.range.stop) if part.axis == 1 else slice(None)
        assert mine.count == sum(map(len, SEQUENCES))
        np.testing.assert_allclose(mine.mean, expected[name].mean[columns], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(mine.hessian, expected[name].hessian[columns, columns], rtol=1e-2, atol=1e-4)
    layer = f"model.layers.{shard.layers.start}.self_attn"
    assert found[f"{layer}.q_proj.weight"] is found[f"{layer}.v_proj.weight"], "they read one tensor"


@pytest.mark.mpi
@pytest.mark.most(2)
def test_layers_may_be_filled_one_at_a_time(world, loop_of):
    loop, _ = loop_of("llama-bias", *splits(world.size)[-1])
    expected = {name: of for _, layer in statistics(loop.engine, SEQUENCES) for name, of in layer.items()}
    stage = loop.engine.stage
    weights, asked = {name: parameter.data.clone() for name, parameter in stage.named_parameters()}, []
    stage.to("meta")

    def fill(name: str) -> torch.Tensor:
        asked.append(name)
        return weights[name]

    found = {}
    for _, layer in statistics(loop.engine, SEQUENCES, lambda module, prefix: filled(module, prefix, fill)):
        assert all(parameter.is_meta for parameter in stage.parameters()), "nothing is held between two layers"
        found |= layer
    assert sorted(asked) == sorted(set(weights) - {"lm_head.weight"}) and found.keys() == expected.keys()
    assert all(np.array_equal(of.hessian, expected[name].hessian) for name, of in found.items())


def test_what_is_held_back_is_in_no_mean():
    linear, holding = torch.nn.Linear(3, 2), Holding()
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), gathering(linear, "it", holding) as sums:
        for rows, now in zip(x, (False, True), strict=True):
            holding.now = now
            linear(rows)
    found = sums["it.weight"].statistics()
    seen, unseen = (rows.numpy() for rows in x)
    assert found.count == 5 and found.held is not None
    np.testing.assert_allclose(found.hessian, seen.T @ seen / 5, rtol=1e-5)
    np.testing.assert_allclose(found.held, unseen.T @ unseen / 5, rtol=1e-5)
    assert [is_held(i) for i in range(9)] == [False] * 7 + [True, False]


def test_a_text_of_nothing():
    with pytest.raises(ConvertError, match="has no tokens"):
        next(statistics(None, [[]]))
