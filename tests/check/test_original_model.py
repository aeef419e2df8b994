"""The original layer by layer against the whole of it, and what it keeps in memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mpsplit.check.original_model import Original
from mpsplit.errors import ModelError
from tests.models import EXAMPLE, FAMILIES, make_model

PROMPTS = [tuple(np.random.default_rng(n).integers(0, 131, n).tolist()) for n in (1, 7, 40)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_and_every_logit_are_the_whole_models(model_of, family):
    check(model_of(family), PROMPTS)


def test_of_half_precision_in_several_files(tmp_path):
    check(make_model("llama-mha-tied", tmp_path / "several", "bfloat16", max_shard_size="60KB"), PROMPTS)
    check(EXAMPLE, PROMPTS)


@pytest.mark.parametrize("kind", ("linear", "dynamic", "yarn"))
def test_of_every_rotary_embedding(tmp_path, kind):
    rope = dict(rope_type=kind, rope_theta=10000.0, factor=2.0, original_max_position_embeddings=64)
    check(make_model("llama", tmp_path / kind, changes={"rope_parameters": rope}), PROMPTS)


def check(folder, prompts):
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    original = Original(folder)
    hidden = [original.embed(prompt) for prompt in prompts]
    after = [list(hidden)]
    for layer in original.layers():
        hidden = [layer(h).mlp for h in hidden]
        after.append(list(hidden))
    for i, prompt in enumerate(prompts):
        with torch.inference_mode():
            expected = whole(torch.tensor([prompt]), output_hidden_states=True, use_cache=False)
        # the last of transformers' hidden states is behind the norm
        for mine, theirs in zip((states[i] for states in after[:-1]), expected.hidden_states[:-1], strict=True):
            assert (mine - theirs[0]).abs().max() < 1e-5
        assert (original.logits(hidden[i]) - expected.logits[0]).abs().max() < 1e-5


def test_a_layer_by_halves_is_the_layer(model_of):
    original = Original(model_of("llama-bias"))
    hidden = original.embed(PROMPTS[1])
    for layer in original.layers():
        step = layer(hidden)
        assert torch.equal(layer.mlp(step.attention), step.mlp) and not torch.equal(step.attention, hidden)
        hidden = step.mlp


def test_nothing_is_read_but_what_is_needed_and_a_missing_weight_is_named_at_once(tmp_path):
    folder = make_model("llama", tmp_path / "model")
    original = Original(folder)
    before = original.checkpoint.bytes_read
    original.embed((5, 9, 5, 5))
    assert original.checkpoint.bytes_read - before == 2 * 64 * 4
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        Original(folder)


@pytest.mark.seconds(100)
def test_memory_is_one_layer_whatever_their_number(tmp_path):
    """16 layers of 6.8 MB, stored in 16 bits: what is held beyond the start is a few of them, not
    109 MB."""
    sizes = dict(hidden_size=384, intermediate_size=1024, num_hidden_layers=16, vocab_size=1000)
    folder = make_model("llama", tmp_path / "deep", "bfloat16", changes=sizes)
    program = """
import resource, sys
from pathlib import Path
from mpsplit.check.original_model import Original
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
original = Original(Path(sys.argv[1]))
hidden, highest = original.embed(tuple(range(40))), 0
before = anonymous()
for layer in original.layers():
    hidden = layer(hidden).mlp
    highest = max(highest, anonymous() - before)
original.logits(hidden)
print(max(highest, anonymous() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40, done.stdout
