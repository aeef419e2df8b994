"""What `run --dump` writes is what transformers has inside, cut every way. On 1, 2 and 4 ranks."""

import numpy as np
import pytest

from mpsplit.errors import RunError
from mpsplit.runtime.engine.dump import Dump, Dumping, own_heads, sent_by
from mpsplit.runtime.load import load_engine, load_loop
from tests.cases import splits, thorough
from tests.missing import needs
from tests.runtime.originals import once_a_family

needs_native = needs("the engine")
TOKENS = tuple(np.random.default_rng(2).integers(0, 131, 19).tolist())
STEPS = ((0, 9), (9, 10), (10, 11), (11, 19))
LAYERS = 3


@pytest.fixture(scope="module")
def original_of(model_of, world):
    """family -> transformers' hidden states and cache, by the names of the dump, on rank 0."""

    def run(folder):
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            out = model(torch.tensor([TOKENS]), output_hidden_states=True, use_cache=True)
        arrays = {f"hidden_states.{i}": hidden.numpy() for i, hidden in enumerate(out.hidden_states)}
        for i, layer in enumerate(out.past_key_values.layers):
            arrays |= {f"present_key.{i}": layer.keys.numpy(), f"present_value.{i}": layer.values.numpy()}
        return arrays

    return once_a_family(world, model_of, run)


def dumped(world, folder, package, per_rank=False):
    """Every step's arrays, of all files of it, on rank 0: one list a name."""
    dump = Dump(folder, per_rank).check()
    world.exchange(None)
    plain = load_engine(package, world, "native")
    before = plain.bytes_sent
    for start, stop in STEPS:
        plain.step(TOKENS[start:stop], start, True)
    alone = plain.bytes_sent - before
    plain.close()
    dumping = Dumping(load_engine(package, world, "native"), package, world, dump)
    before = dumping.bytes_sent
    for start, stop in STEPS:
        logits = dumping.step(TOKENS[start:stop], start)
        assert len(logits) == 1
    assert dumping.bytes_sent - before == alone, "what the dump itself sends is not counted"
    dumping.close()
    world.exchange(None)
    files = [sorted(folder.glob(f"step-{step:04}-*.npz")) for step in range(len(STEPS))]
    return [[dict(np.load(file)) for file in of_step] for of_step in files]


@needs_native
@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", ["llama-bias", "mistral-window", "qwen3", *thorough("llama", "qwen2-tied")])
def test_the_dump_is_transformers(world, shared_folder, package_of, original_of, family, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    package = package_of(family, *cuts[index])
    steps = dumped(world, shared_folder / f"dump-{family}-{index}", package)
    expected = original_of(family)
    if world.rank:
        return
    for (start, stop), files in zip(STEPS, steps, strict=True):
        assert len(files) == cuts[index][1] and all(list(f["token_ids"]) == list(TOKENS[start:stop]) for f in files)
        held = {name: array for file in files for name, array in file.items()}
        assert set(held) == {*expected, "token_ids", "position"} and held["position"] == start
        assert sum(map(len, files)) == len(expected) + 2 * len(files), "stages write their own, and nothing twice"
        for name, whole in expected.items():
            if name.startswith("hidden"):
                assert held[name].shape == (1, stop - start, whole.shape[2])
                assert np.abs(held[name] - whole[:, start:stop]).max() < 1e-4, name
            else:
                # a sliding window is all that transformers keeps
                first = len(TOKENS) - whole.shape[2]
                assert held[name].shape == (1, whole.shape[1], stop, whole.shape[3])
                assert np.abs(held[name][:, :, first:] - whole[:, :, : max(0, stop - first)]).max(initial=0) < 1e-4, (
                    name
                )


@needs_native
@pytest.mark.mpi
@pytest.mark.most(2)
def test_each_rank_may_write_its_own(world, shared_folder, package_of, original_of):
    package = package_of("llama", *splits(world.size)[0])
    steps = dumped(world, shared_folder / "dump-per-rank", package, per_rank=True)
    expected = original_of("llama")
    if world.rank:
        return
    for (_, stop), files in zip(STEPS, steps, strict=True):
        assert len(files) == world.size
        for name in ("present_key.1", "present_value.1"):
            own = [file[name] for file in files if name in file]
            assert np.abs(np.concatenate(own, axis=1) - expected[name][:, :, :stop]).max() < 1e-4


def test_replicated_heads_are_sent_once():
    from mpsplit.plan.model_facts import ModelFacts
    from mpsplit.plan.shards import even_plan

    facts = ModelFacts("LlamaForCausalLM", 64, 3, 8, 2, 8, 96, 131, 128, False)
    plan = even_plan(facts, 4, 1)
    assert [tuple(shard.kv_heads) for shard in plan.shards] == [(0,), (0,), (1,), (1,)]
    assert [own_heads(plan, rank) for rank in range(4)] == [(0,), (), (1,), ()]
    assert sent_by(plan, 1) == [] and sent_by(plan, 2)[:2] == ["present_key.0", "present_value.0"]


def test_an_earlier_dump_is_not_mixed_with_a_new_one(tmp_path):
    (tmp_path / "step-0000-stage-0.npz").write_bytes(b"")
    with pytest.raises(RunError, match="holds an earlier dump of 1 files; remove it or name another directory"):
        Dump(tmp_path).check()
    with pytest.raises(RunError, match="is a file; name a directory"):
        Dump(tmp_path / "step-0000-stage-0.npz").check()


def test_the_stock_engine_cannot_be_looked_into(package_of, tmp_path):
    from mpsplit.comm import Alone

    with pytest.raises(RunError, match="--dump needs the native engine: the stock engine's cache lies in a layout"):
        load_loop(package_of("llama", 1, 1), Alone(), engine="stock", dump=Dump(tmp_path))
