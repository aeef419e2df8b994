"""How many bytes a rank takes at its peak while its part of a package is made, torch and pnnx
included.

In: a model and a Shard, or the bytes of a stage. Out: bytes.

Weights pass in pieces, so tracing and converting take the same of any decoder. What grows: the
inputs of one layer when it is calibrated, the weights of one stage.
"""

from __future__ import annotations

from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.sizes import FLOAT, FLOAT_BYTES, Job, attention_bytes, mlp_bytes
from mpsplit.plan.shards import Shard

# 500e6 of torch and pnnx, pieces of weights beside them: tests/export/test_bounded.py holds to it
MAKING = 700_000_000
STAGE_COPIES = 6  # of a stage's weights, in torch and pnnx: stages of 4 and 151 MB took 425 and 1,312 MB


def calibrating(facts: ModelFacts, shard: Shard, tokens: int) -> int:
    """Beside MAKING: the hidden states of all tokens, and of one layer its weights and the second
    moments of its inputs, twice, for some text is held back; GPTQ's factor of the widest in three
    steps."""
    widths = [facts.hidden, facts.hidden, len(shard.heads) * facts.head_dim, len(shard.mlp)]
    moments = 2 * sum(width * width for width in widths) + 3 * max(widths) ** 2
    return _layer(facts, shard) + FLOAT_BYTES * (tokens * facts.hidden + moments)


def verifying(facts: ModelFacts, shard: Shard) -> int:
    """Beside MAKING: the rank's weights in float32, the original's and the package's."""
    rows = len(shard.embed) + len(shard.head)
    return 2 * (len(shard.layers) * _layer(facts, shard) + FLOAT_BYTES * rows * facts.hidden)


def _layer(facts: ModelFacts, shard: Shard) -> int:
    job = Job(kind=FLOAT)
    return attention_bytes(facts, len(shard.heads), len(shard.kv_heads), job) + mlp_bytes(facts, len(shard.mlp), job)


def stage_converting(largest: int) -> int:
    """Of the largest stage's weights, in bytes of float32."""
    return MAKING + STAGE_COPIES * largest
