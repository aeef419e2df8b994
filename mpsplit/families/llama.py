"""Llama, and what was made of it: Vicuna, SmolLM2 and many others."""

from mpsplit.families.family import (
    ATTENTION_NORM,
    DOWN,
    EMBEDDING,
    GATE,
    HEAD,
    KEY,
    MLP_NORM,
    NORM,
    OUTPUT,
    QUERY,
    UP,
    VALUE,
    Family,
)

LLAMA = Family(
    people="Llama and Vicuna",
    architectures=("LlamaForCausalLM",),
    modules={
        "model.embed_tokens": EMBEDDING,
        "model.layers.*.input_layernorm": ATTENTION_NORM,
        "model.layers.*.self_attn.q_proj": QUERY,
        "model.layers.*.self_attn.k_proj": KEY,
        "model.layers.*.self_attn.v_proj": VALUE,
        "model.layers.*.self_attn.o_proj": OUTPUT,
        "model.layers.*.post_attention_layernorm": MLP_NORM,
        "model.layers.*.mlp.gate_proj": GATE,
        "model.layers.*.mlp.up_proj": UP,
        "model.layers.*.mlp.down_proj": DOWN,
        "model.norm": NORM,
        "lm_head": HEAD,
    },
)
