"""The same slice, small: what pnnx is given in the place of a rank's gigabytes.

In: facts, a plan, a rank. Out: a Miniature.

Its hidden size, MLP columns and vocabulary rows are small numbers, its decoder layers at most two.
Heads and their size stay true, so that reshapes, the scale of attention and the rotary layers are
right. Its weights are fingerprints: random numbers that depend on their name alone, by which they
are known again in what pnnx makes of them.

Invariant: a weight has one name in both sizes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Range

LAYERS = 2  # so many show where one ends and the next begins
SMALL = (24, 40, 56, 72, 88, 104, 120, 136)


@dataclass(frozen=True)
class Miniature:
    """`changes`: to config.json."""

    facts: ModelFacts
    plan: Plan
    changes: dict[str, int]


def miniature(facts: ModelFacts, plan: Plan, rank: int) -> Miniature:
    """Of one rank; what this rank does not have, it has not in small either."""
    shard = plan.shards[rank]
    taken = {
        n * unit
        for n in (facts.heads, facts.kv_heads, len(shard.heads), len(shard.kv_heads))
        for unit in (1, facts.head_dim)
    }
    hidden, mlp, vocabulary = [size for size in SMALL if size not in taken | {facts.head_dim}][:3]
    small = replace(
        shard,
        layers=Range(shard.layers.start, min(shard.layers.start + LAYERS, shard.layers.stop)),
        mlp=Range(0, mlp if len(shard.mlp) else 0),
        embed=Range(0, vocabulary if len(shard.embed) else 0),
        head=Range(0, vocabulary if len(shard.head) else 0),
    )
    return Miniature(
        replace(facts, hidden=hidden, mlp=mlp, vocabulary=vocabulary),
        Plan((*plan.shards[:rank], small, *plan.shards[rank + 1 :])),
        {"hidden_size": hidden, "intermediate_size": mlp, "vocab_size": vocabulary, "head_dim": facts.head_dim},
    )


def fingerprint(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of this shape, the same at every call."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
