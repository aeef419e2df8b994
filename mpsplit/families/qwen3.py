"""Qwen3: Llama's modules, and a norm of each query and key head."""

from mpsplit.families import roles
from mpsplit.families.family import WINDOW_IF_ASKED, Family, GgufWords
from mpsplit.families.llama import LLAMA

QWEN3 = Family(
    people="Qwen3",
    architectures=("Qwen3ForCausalLM",),
    modules={
        **LLAMA.modules,
        "model.layers.*.self_attn.q_norm": roles.QUERY_NORM,
        "model.layers.*.self_attn.k_norm": roles.KEY_NORM,
    },
    window=WINDOW_IF_ASKED,
    gguf=GgufWords("qwen3"),
)
