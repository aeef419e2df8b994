import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mpsplit.errors import ModelError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.model_source import find_model, read_config
from mpsplit.export.trace.slicing import IGNORABLE, build_whole, expected_weights
from mpsplit.plan.cuts import Part
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range
from tests.models import make_model


@pytest.fixture
def model(tmp_path):
    return make_model("llama", tmp_path / "model")


def change(model, edit):
    """The model with its tensors edited."""
    tensors = load_file(model / "model.safetensors")
    edit(tensors)
    save_file(tensors, model / "model.safetensors")


def check(model):
    facts = ModelFacts.from_config(read_config(model))
    return Checkpoint(model).check(expected_weights(build_whole(model), facts), IGNORABLE)


UP = "model.layers.1.mlp.up_proj.weight"  # [96, 64]


@pytest.mark.parametrize("layout", ["one file", "several files", "bin"])
def test_slices_are_read_from_every_layout_and_counted(tmp_path, layout):
    model = make_model("llama", tmp_path / "m", **(dict(max_shard_size="100KB") if layout == "several files" else {}))
    if layout == "bin":
        torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
    if layout == "several files":
        assert len(list(model.glob("model-*.safetensors"))) > 1
    checkpoint = Checkpoint(model)
    whole = checkpoint.floats(UP)
    assert checkpoint.bytes_read == 96 * 64 * 4
    assert np.array_equal(checkpoint.floats(UP, Part(0, Range(10, 30))), whole[10:30])
    assert np.array_equal(checkpoint.floats(UP, Part(1, Range(5, 9))), whole[:, 5:9])
    assert checkpoint.bytes_read == 4 * (96 * 64 + 20 * 64 + 96 * 4)
    assert np.array_equal(checkpoint.floats(UP, Part(0, Range(10, 30)), 3, 7), whole[13:17])
    assert np.array_equal(checkpoint.floats(UP, Part(1, Range(5, 9)), 90, 96), whole[90:, 5:9])
    assert np.array_equal(checkpoint.stored(UP), whole)
    checkpoint.close()


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_become_float32(tmp_path, layout, dtype):
    model = make_model("llama", tmp_path / "m", dtype)
    tensors = load_file(model / "model.safetensors")
    if layout == "bin":
        torch.save(tensors, model / "pytorch_model.bin")
        (model / "model.safetensors").unlink()
    checkpoint = Checkpoint(model)
    assert np.array_equal(checkpoint.floats(UP, Part(1, Range(5, 9))), tensors[UP][:, 5:9].float().numpy())
    assert checkpoint.stored(UP).tobytes() == tensors[UP].view(torch.uint8).numpy().tobytes()
    assert checkpoint.bytes_read == 2 * (96 * 4 + 96 * 64)


def test_what_is_counted_is_what_the_kernel_counts(model):
    def kernel():
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["rchar"])

    checkpoint = Checkpoint(model)
    own = kernel()
    own = kernel() - own  # what asking reads
    before = kernel()
    checkpoint.floats(UP, Part(1, Range(5, 9)))
    checkpoint.floats(UP, Part(0, Range(5, 9)))
    assert kernel() - before - own == checkpoint.bytes_read == 4 * (96 * 4 + 4 * 64)


def test_a_missing_tensor_is_named(model):
    change(model, lambda tensors: tensors.pop(UP))
    with pytest.raises(ModelError, match=r"no tensor model.layers.1.mlp.up_proj.weight of shape \[96, 64\]"):
        check(model)


def test_a_misshaped_tensor_is_named_with_both_shapes(model):
    change(model, lambda tensors: tensors.update({UP: torch.zeros(95, 64)}))
    with pytest.raises(ModelError, match=r"up_proj.weight has shape \[95, 64\], config.json asks for \[96, 64\]"):
        check(model)


def test_an_extra_tensor_is_named_and_a_known_buffer_listed_as_unused(model):
    change(model, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    assert check(model) == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    change(model, lambda tensors: tensors.update({"model.layers.0.mystery": torch.zeros(4)}))
    with pytest.raises(ModelError, match="a tensor model.layers.0.mystery that the architecture does not know"):
        check(model)


def test_a_git_lfs_pointer_is_recognised(model):
    (model / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13476000000\n"
    )
    with pytest.raises(ModelError, match="is a git-lfs pointer of .* not weights; run `git lfs pull`"):
        Checkpoint(model)


def test_a_file_cut_short_is_named(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="model.safetensors .* cannot be read: .*; download it again"):
        Checkpoint(model)


def test_no_weights_and_a_missing_part(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights; expected one of model.safetensors.index.json"):
        Checkpoint(model)
    index = {"weight_map": {UP: "model-00001-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="names model-00001-of-00002.safetensors, which is not in"):
        Checkpoint(model)


def test_types_that_are_not_weights(model):
    change(model, lambda tensors: tensors.update({UP: torch.zeros(96, 64, dtype=torch.int32)}))
    with pytest.raises(ModelError, match=r"up_proj.weight has type I32; weights must be F32, F16, BF16"):
        Checkpoint(model)


def test_models_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="there is no model /no/such/place"):
        find_model("/no/such/place")
    with pytest.raises(ModelError, match="has no config.json"):
        find_model(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="nobody/nothing is neither a directory here nor to be had from the hub"):
        find_model("nobody/nothing")
