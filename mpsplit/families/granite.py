"""Granite 3: Llama's modules, and numbers in config.json that the hidden state is multiplied with.

Those of attention and of the residual stream are in transformers' own modules.
"""

from mpsplit.families.family import Family, GgufWords
from mpsplit.families.llama import LLAMA

GRANITE = Family(
    people="Granite",
    architectures=("GraniteForCausalLM",),
    modules=LLAMA.modules,
    embedding_times="embedding_multiplier",
    logits_over="logits_scaling",
    gguf=GgufWords(
        "granite",
        pairs=True,
        settings={
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "attention.scale": "attention_multiplier",
            "logit_scale": "logits_scaling",
        },
    ),
)
