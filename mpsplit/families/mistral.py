"""Mistral: Llama's modules, and a sliding window wherever config.json has one."""

from mpsplit.families.family import WINDOW, Family
from mpsplit.families.llama import LLAMA

MISTRAL = Family(
    people="Mistral",
    architectures=("MistralForCausalLM",),
    modules=LLAMA.modules,
    window=WINDOW,
)
