"""Llama, and what was made of it: Vicuna, SmolLM2 and many others."""

from mpsplit.families import roles
from mpsplit.families.family import Family, GgufWords

LLAMA = Family(
    people="Llama and Vicuna",
    architectures=("LlamaForCausalLM",),
    modules={
        "model.embed_tokens": roles.EMBEDDING,
        "model.layers.*.input_layernorm": roles.ATTENTION_NORM,
        "model.layers.*.self_attn.q_proj": roles.QUERY,
        "model.layers.*.self_attn.k_proj": roles.KEY,
        "model.layers.*.self_attn.v_proj": roles.VALUE,
        "model.layers.*.self_attn.o_proj": roles.OUTPUT,
        "model.layers.*.post_attention_layernorm": roles.MLP_NORM,
        "model.layers.*.mlp.gate_proj": roles.GATE,
        "model.layers.*.mlp.up_proj": roles.UP,
        "model.layers.*.mlp.down_proj": roles.DOWN,
        "model.norm": roles.NORM,
        "lm_head": roles.HEAD,
    },
    gguf=GgufWords("llama", pairs=True),
)
