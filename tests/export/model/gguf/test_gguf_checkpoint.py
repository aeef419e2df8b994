import json

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.model.gguf import gguf_folder
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_types import TYPES, floats
from mpsplit.export.model.model_source import find_model, read_config
from mpsplit.export.trace.slicing import build_whole, expected_weights, ignorable
from mpsplit.plan.cuts import Part
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range
from tests.ggufs import random_blocks, type_named, write_gguf
from tests.models import make_model

OTHERWISE = {"architectures", "bos_token_id", "eos_token_id", "dtype", "attention_bias", "mlp_bias", "head_dim"}
FAMILIES = ("llama", "llama-mha-tied", "llama-bias", "qwen2-tied", "qwen3", "granite")
QUERY, DOWN = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"  # [64, 64], [64, 96]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_folder, "cache", lambda: tmp_path / "cache")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_the_model_that_it_was_made_of(tmp_path, family):
    model = make_model(family, tmp_path / "model")
    there = Checkpoint(model)
    folder = find_model(str(write_gguf(model, tmp_path / "small.gguf")))
    facts, same = ModelFacts.from_config(read_config(folder)), ModelFacts.from_config(read_config(model))
    assert facts == same and folder.name == "small"
    here = checkpoint_of(folder)
    assert here.check(expected_weights(build_whole(folder), facts), ignorable(facts)) == ()
    assert set(here.entries) == set(there.entries)
    for name in there.entries:
        assert np.array_equal(here.floats(name), there.floats(name)), name
    theirs, ours = (json.loads((each / "config.json").read_text()) for each in (model, folder))
    known = set(ours) - {
        "architectures",
        "bos_token_id",
        "eos_token_id",
        "dtype",
        "attention_bias",
        "mlp_bias",
        "head_dim",
    }
    for name in known & set(theirs):
        expected = theirs[name]
        if name == "rope_parameters":
            expected = {key: value for key, value in expected.items() if key in ours[name]}
        assert ours[name] == pytest.approx(expected), name
    assert bool(theirs.get("attention_bias")) <= ours["attention_bias"]


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_only_the_blocks_of_a_slice_are_read(tmp_path, kind):
    path = write_gguf(make_model("llama", tmp_path / "model"), tmp_path / "small.gguf", kind)
    checkpoint, block = GgufCheckpoint(path), type_named(kind)
    for name, shape in ((QUERY, (64, 64)), (DOWN, (64, 96))):
        whole = checkpoint.floats(name)
        assert whole.shape == shape and whole.dtype == np.float32
        for part, start, stop in (
            (Part(0, Range(16, 48)), 0, None),
            (Part(0, Range(16, 48)), 3, 29),
            (Part(1, Range(32, 64)), 0, None),
            (Part(1, Range(7, 41)), 5, 6),
            (Part(0, Range(16, 16)), 0, None),
        ):
            rows, columns = (part.range if part.axis == axis else Range(0, shape[axis]) for axis in (0, 1))
            expected = whole[rows.start : rows.stop][start:stop, columns.start : columns.stop]
            before = checkpoint.bytes_read
            assert np.array_equal(checkpoint.floats(name, part, start, stop), expected)
            blocks = -(-columns.stop // block.weights) - columns.start // block.weights
            # of two rows that turn together one may be of no use
            most = len(expected) + (8 if name == QUERY else 0)
            assert checkpoint.bytes_read - before <= (most if len(expected) else 0) * blocks * block.bytes
    checkpoint.close()


def test_several_files_are_one_model(tmp_path):
    model = make_model("llama", tmp_path / "model")
    whole = GgufCheckpoint(write_gguf(model, tmp_path / "whole.gguf", "Q8_0"))
    first = write_gguf(model, tmp_path / "cut.gguf", "Q8_0", parts=3)
    for named in sorted(tmp_path.glob("cut-*.gguf")):
        cut = GgufCheckpoint(named)
        assert [file.name for file in cut.files] == [f"cut-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
        assert set(cut.entries) == set(whole.entries)
        assert all(np.array_equal(cut.floats(name), whole.floats(name)) for name in whole.entries)
    assert first == cut.files[0]


@pytest.mark.parametrize("kind", [kind.name for kind in TYPES.values()])
def test_blocks_are_what_gguf_py_says(tmp_path, kind):
    made = type_named(kind)
    blocks = random_blocks(kind, 64)
    assert np.array_equal(floats(blocks, made), dequantize(blocks, GGMLQuantizationType[kind]), equal_nan=True)
    assert floats(blocks, made).shape == (64, made.weights)


def test_offsets_are_those_that_gguf_py_finds(tmp_path):
    path = write_gguf(make_model("llama", tmp_path / "model"), tmp_path / "small.gguf", "Q5_1")
    tensors = GgufCheckpoint(path).gguf.tensors
    found = {tensor.name: (tensor.data_offset, tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    assert {name: (tensor.offset, tensor.bytes) for name, tensor in tensors.items()} == found
