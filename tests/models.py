"""The models of the tests: small random ones of every family, the shipped one, and the facts of one
that needs no files."""

from __future__ import annotations

from pathlib import Path

from mpsplit.plan.model_facts import ModelFacts

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-vicuna"

# sizes that 1, 2 and 4 ranks divide; a vocabulary that they do not
SIZES = dict(
    vocab_size=131,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=8,
    max_position_embeddings=128,
)
ROPE3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# the other scaling variants, which test_rope.py goes through
ROPES = {
    "linear": dict(rope_type="linear", rope_theta=10000.0, factor=3.0),
    "dynamic": dict(rope_type="dynamic", rope_theta=10000.0, factor=2.5),
    "yarn": dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32),
    "yarn-slow": dict(
        rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32,
        attention_factor=0.8, beta_fast=16, beta_slow=2,
    ),
}  # fmt: skip
# each is split, converted and run against transformers, which test_families.py does at every number
# of ranks; what differs from SIZES, 4 KV heads and a head of its own
MODELS: dict[str, dict] = {
    "llama": dict(model_type="llama"),
    "llama-mha-tied": dict(model_type="llama", num_key_value_heads=8, tie_word_embeddings=True),
    "llama-bias": dict(model_type="llama", attention_bias=True, mlp_bias=True),
    "llama-rope3": dict(model_type="llama", rope_parameters=ROPE3),
    "mistral-window": dict(model_type="mistral", sliding_window=11),
    "qwen2-tied": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=16),
    "granite": dict(model_type="granite", embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.3),
}
FAMILIES = tuple(MODELS)


def make_model(family: str, folder: Path, dtype: str = "float32", changes: dict | None = None, **save) -> Path:
    """A random model of the family, its sizes changed as asked, its biases and norms random too,
    saved as transformers saves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    ropes = {f"llama-{kind}": dict(model_type="llama", rope_parameters=rope) for kind, rope in ROPES.items()}
    common = SIZES | dict(num_key_value_heads=4, tie_word_embeddings=False)
    config = AutoConfig.for_model(**common | (MODELS | ropes)[family] | (changes or {}))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape) * 0.2 + ("norm" in name))
            else:
                parameter.copy_(torch.randn(parameter.shape) * 0.08)
    model.to(getattr(torch, dtype)).save_pretrained(folder, **save)
    return folder


def transformers_answer(folder: Path, prompt: tuple[int, ...], new: int):
    """The whole model's logits of every token of the prompt, and its greedy tokens after it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    asked = dict(attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0)
    with torch.inference_mode():
        return model(ids).logits[0].numpy(), tuple(model.generate(ids, **asked)[0, len(prompt) :].tolist())


def facts(**changes) -> ModelFacts:
    given = dict(
        architecture="LlamaForCausalLM", hidden=64, layers=5, heads=8, kv_heads=4, head_dim=8, mlp=96, vocabulary=131,
        context=128, tied=False,
    )  # fmt: skip
    return ModelFacts(**given | changes)
