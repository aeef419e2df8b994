import numpy as np
import pytest
import torch

from mpsplit.export.trace.slicing import build_whole, rope_of
from mpsplit.families.llama import LLAMA
from mpsplit.runtime.engine.positions import causal_mask, rope_tables

VARIANTS = {
    "default": {},
    "linear": dict(rope_type="linear", factor=4.0),
    "dynamic": dict(rope_type="dynamic", factor=4.0),
    "yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
    "llama3": dict(
        rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_tables_are_transformers_own(tmp_path, variant):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from tests.models import SIZES

    config = LlamaConfig(
        **SIZES,
        architectures=["LlamaForCausalLM"],
        rope_parameters=dict(rope_theta=10000.0, **{"rope_type": "default"} | VARIANTS[variant]),
    )
    config.save_pretrained(tmp_path)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(128)[None])
    mine = rope_tables(rope_of(build_whole(tmp_path), LLAMA), 128)
    assert np.abs(mine[0] - cos[0].numpy()).max() < 2e-5 and np.abs(mine[1] - sin[0].numpy()).max() < 2e-5


@pytest.mark.parametrize("window", [0, 1, 3, 100])
def test_masks_of_chunks_are_rows_of_the_whole(window):
    whole = causal_mask(0, 9, window)
    assert whole.dtype == np.float32
    for query in range(9):
        seen = set(np.flatnonzero(whole[query] == 0))
        assert seen == set(range(max(0, query - window + 1) if window else 0, query + 1))
    assert np.array_equal(causal_mask(4, 3, window), whole[4:7, :7])
