"""Qwen2 and Qwen2.5: Llama's modules, with biases in q, k and v, and a window if asked for."""

from mpsplit.families.family import WINDOW_IF_ASKED, Family, GgufWords
from mpsplit.families.llama import LLAMA

QWEN2 = Family(
    people="Qwen2",
    architectures=("Qwen2ForCausalLM",),
    modules=LLAMA.modules,
    window=WINDOW_IF_ASKED,
    template="qwen",
    gguf=GgufWords("qwen2"),
)
