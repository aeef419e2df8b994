"""Qwen3: Llama's modules, and a norm of each query and key head."""

from mpsplit.families.family import KEY_NORM, QUERY_NORM, WINDOW_IF_ASKED, Family
from mpsplit.families.llama import LLAMA

QWEN3 = Family(
    people="Qwen3",
    architectures=("Qwen3ForCausalLM",),
    modules={
        **LLAMA.modules,
        "model.layers.*.self_attn.q_norm": QUERY_NORM,
        "model.layers.*.self_attn.k_norm": KEY_NORM,
    },
    window=WINDOW_IF_ASKED,
)
