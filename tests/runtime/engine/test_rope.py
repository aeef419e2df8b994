"""The scaling variants of the rotary embedding against transformers, to the last token of the
context. On 1, 2 and 4 ranks."""

import numpy as np
import pytest

from mpsplit.check.verification import all_logits
from mpsplit.errors import RunError
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits
from tests.models import ROPES, SIZES

CONTEXT = SIZES["max_position_embeddings"]
TOKENS = tuple(np.random.default_rng(4).integers(0, SIZES["vocab_size"], CONTEXT).tolist())

pytestmark = [pytest.mark.mpi, pytest.mark.most(1)]


@pytest.mark.parametrize("kind", ["rope3", *ROPES])
def test_logits_are_transformers_in_the_whole_context(world, package_of, model_of, kind):
    """Several times as long as what yarn and llama3 call the original context."""
    loop = load_loop(package_of(f"llama-{kind}", *splits(world.size)[0]), world)
    logits = all_logits(loop.engine, world, TOKENS)
    folder = model_of(f"llama-{kind}")
    if world.rank == 0:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            expected = model(torch.tensor([TOKENS])).logits[0].numpy()
        assert np.abs(logits - expected).max() < 1e-4


def test_a_dynamic_rope_goes_no_further_than_its_context(world, package_of):
    """There transformers takes another base for every length (NOTES: Dynamic rotary embedding)."""
    loop = load_loop(package_of("llama-dynamic", *splits(world.size)[0]), world)
    if world.rank:
        loop.follow()
        return
    try:
        with pytest.raises(RunError, match=f"the prompt has {CONTEXT} tokens, the context {CONTEXT}; shorten it"):
            loop.generate(Request(TOKENS, 1))
        generation = loop.generate(Request(TOKENS[:-3], 10, ignore_eos=True))
        assert generation.finish_reason == "context" and len(generation.token_ids) == 3
    finally:
        loop.end()
