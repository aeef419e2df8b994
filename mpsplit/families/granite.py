"""Granite 3: Llama's modules, and numbers in config.json that the hidden state is multiplied with.

Those of attention and of the residual stream are in transformers' own modules.
"""

from mpsplit.families.family import Family
from mpsplit.families.llama import LLAMA

GRANITE = Family(
    people="Granite",
    architectures=("GraniteForCausalLM",),
    modules=LLAMA.modules,
    embedding_times="embedding_multiplier",
    logits_over="logits_scaling",
)
