"""How each weight is divided: one table, for all families.

In: a weight's name. Out: which part of it a shard owns.

Invariant: along a cut, the parts of the ranks of a stage follow each other and add up to the
weight. Ranks that share a KV head each have all of it: the parts of k_proj and v_proj overlap
there, and still leave nothing out.

The styles are Megatron's. A *colwise* linear owns output rows (axis 0 of its weight, and its bias);
a *rowwise* one owns input columns (axis 1), and its partial results are summed over the ranks, so
its bias is added once, after the sum: by every rank of the stage, also by one without columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Range, Shard


@dataclass(frozen=True)
class Cut:
    """`along` names the Shard's range; one step of it is `unit` rows or columns (an attribute of
    ModelFacts, or 1)."""

    style: str
    along: str
    unit: str = ""


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WHOLE = Cut("whole", "layers")
CUTS = {
    "model.embed_tokens": Cut("colwise", "embed"),
    "model.layers.*.self_attn.q_proj": Cut("colwise", "heads", "head_dim"),
    "model.layers.*.self_attn.k_proj": Cut("colwise", "kv_heads", "head_dim"),
    "model.layers.*.self_attn.v_proj": Cut("colwise", "kv_heads", "head_dim"),
    "model.layers.*.self_attn.o_proj": Cut("rowwise", "heads", "head_dim"),
    "model.layers.*.self_attn.q_norm": Cut("whole", "heads"),
    "model.layers.*.self_attn.k_norm": Cut("whole", "kv_heads"),
    "model.layers.*.mlp.gate_proj": Cut("colwise", "mlp"),
    "model.layers.*.mlp.up_proj": Cut("colwise", "mlp"),
    "model.layers.*.mlp.down_proj": Cut("rowwise", "mlp"),
    "model.layers.*.input_layernorm": WHOLE,
    "model.layers.*.post_attention_layernorm": WHOLE,
    "model.norm": Cut("whole", "head"),
    "lm_head": Cut("colwise", "head"),
}


@dataclass(frozen=True)
class Part:
    """The part of one weight that one shard owns: `axis` is None for the whole of it."""

    axis: int | None
    range: Range | None


def linears_of(facts: ModelFacts) -> list[str]:
    """The weights of all linear modules of the model."""
    names = [module for module, cut in CUTS.items() if cut.style != "whole" and f"{module}.weight" != EMBEDDING]
    each = [module.replace("*", str(i)) for i in range(facts.layers) for module in names if "*" in module]
    return [f"{module}.weight" for module in (*each, *(module for module in names if "*" not in module))]


def source_of(weight: str, facts: ModelFacts) -> str:
    """The tensor of the checkpoint that a weight is: a tied head is the embedding."""
    return EMBEDDING if facts.tied and weight == HEAD else weight


def one_matrix(plan: Plan, facts: ModelFacts) -> bool:
    """Whether the head is tied, and each rank has the same rows of it as of the embedding: never
    with several stages."""
    return facts.tied and all(
        shard.embed == shard.head or not len(shard.embed) + len(shard.head) for shard in plan.shards
    )


def module_of(weight: str) -> str:
    """The table's key of a weight: "model.layers.7.mlp.up_proj.bias" ->
    "model.layers.*.mlp.up_proj"."""
    return re.sub(r"\.\d+\.", ".*.", weight.rpartition(".")[0])


def layer_of(weight: str) -> int | None:
    """The number of the decoder layer that has it."""
    found = re.search(r"layers\.(\d+)\.", weight)
    return int(found[1]) if found else None


def part_of(weight: str, shard: Shard, facts: ModelFacts) -> Part | None:
    """What `shard` owns of `weight`; None when it owns nothing of it."""
    cut = CUTS[module_of(weight)]
    layer = layer_of(weight)
    if layer is not None and not shard.layers.start <= layer < shard.layers.stop:
        return None
    if cut.style == "rowwise" and weight.endswith(".bias"):
        return Part(None, None)
    owned = getattr(shard, cut.along).scaled(getattr(facts, cut.unit) if cut.unit else 1)
    if not len(owned):
        return None
    if cut.style == "whole":
        return Part(None, None)
    return Part({"colwise": 0, "rowwise": 1}[cut.style], owned)
