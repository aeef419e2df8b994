"""Models to measure by, by name.

In: a name. Out: its sizes, without weights: random_package.py gives them some that mean nothing. No
torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.errors import ModelError
from mpsplit.plan.model_facts import ModelFacts

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True)
class Shape:
    """`family` as transformers spells it in model_type; `head_dim` 0 is hidden / heads."""

    family: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_dim: int = 0
    tied: bool = False
    context: int = 2048

    def config(self) -> dict:
        """config.json, where it differs from the family's defaults."""
        return dict(
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim or self.hidden // self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=self.context,
            tie_word_embeddings=self.tied,
        )

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts.from_config({"architectures": [ARCHITECTURES[self.family]], **self.config()})


SHAPES = {
    "llama-15m": Shape("llama", 256, 1024, 7, 8, 4, 16000),
    "llama-110m": Shape("llama", 768, 2048, 12, 12, 12, 32000),
    "llama-330m": Shape("llama", 1024, 2816, 24, 16, 4, 32000),
    "qwen3-0.6b": Shape("qwen3", 1024, 3072, 28, 16, 8, 151936, head_dim=128, tied=True),
    "llama-1.1b": Shape("llama", 2048, 5632, 22, 32, 4, 32000),
    "vicuna-7b": Shape("llama", 4096, 11008, 32, 32, 32, 32000, context=4096),
    # to plan by: nothing makes weights of these unless somebody wants them
    "llama-70b": Shape("llama", 8192, 28672, 80, 64, 8, 128256, context=8192),
    "llama-405b": Shape("llama", 16384, 53248, 126, 128, 8, 128256, context=8192),
}


def find_shape(name: str) -> Shape:
    if name not in SHAPES:
        raise ModelError(f"there is no shape {name}; there are {', '.join(SHAPES)}")
    return SHAPES[name]
