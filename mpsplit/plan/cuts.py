"""Which part of each weight a shard owns.

In: a weight's name, a Shard, the model's facts, whose family says how the weight is cut. Out: a
Part of it.

Invariant: along a cut, the parts of the ranks of a stage follow each other and add up to the
weight. Ranks that share a KV head each have all of it: the parts of k_proj and v_proj overlap
there, and still leave nothing out. The bias of a rowwise linear is added once, after the sum: by
every rank of the stage, also by one without columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.families.roles import LINEARS
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Range, Shard


@dataclass(frozen=True)
class Part:
    """The part of one weight that one shard owns: `range` along `axis`, or the whole of it, where
    both are None."""

    axis: int | None
    range: Range | None

    def __post_init__(self) -> None:
        assert (self.axis is None) == (self.range is None), f"half a part: {self}"

    def along(self, axis: int) -> Range | None:
        """What it takes of the entries along `axis`; None for all of them."""
        return self.range if axis == self.axis else None

    def shape_of(self, weight: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the part of a weight of this shape."""
        taken = map(self.along, range(len(weight)))
        return tuple(size if entries is None else len(entries) for size, entries in zip(weight, taken, strict=True))


WHOLE = Part(None, None)


def linears_of(facts: ModelFacts) -> list[str]:
    """The weights of all linear modules of the model, layer by layer."""
    paths = [path for path, role in facts.family.modules.items() if role in LINEARS]
    each = [path.replace("*", str(i)) for i in range(facts.layers) for path in paths if "*" in path]
    return [f"{path}.weight" for path in (*each, *(path for path in paths if "*" not in path))]


def linear_shape(weight: str, facts: ModelFacts) -> tuple[int, int]:
    """Outputs and inputs of a linear of the whole model."""
    role = facts.family.role_of(weight)
    assert role, f"{facts.architecture} has no {weight}"
    whole = {"heads": facts.heads, "kv_heads": facts.kv_heads, "mlp": facts.mlp, "head": facts.vocabulary}
    count = whole[role.cut.along] * (getattr(facts, role.cut.unit) if role.cut.unit else 1)
    return (facts.hidden, count) if role.cut.style == "rowwise" else (count, facts.hidden)


def source_of(weight: str, facts: ModelFacts) -> str:
    """The tensor of the checkpoint that a weight is: a tied head is the embedding."""
    family = facts.family
    return family.embedding if facts.tied and weight == family.head else weight


def one_matrix(plan: Plan, facts: ModelFacts) -> bool:
    """Whether the head is tied, and each rank has the same rows of it as of the embedding: never
    with several stages."""
    return facts.tied and all(
        shard.embed == shard.head or not len(shard.embed) + len(shard.head) for shard in plan.shards
    )


def part_of(weight: str, shard: Shard, facts: ModelFacts) -> Part | None:
    """What `shard` owns of `weight`; None when it owns nothing of it."""
    role = facts.family.role_of(weight)
    assert role, f"{facts.architecture} has no {weight}"
    layer = facts.family.layer_of(weight)
    if layer is not None and not shard.layers.start <= layer < shard.layers.stop:
        return None
    if role.cut.style == "rowwise" and weight.endswith(".bias"):
        return WHOLE
    owned: Range = getattr(shard, role.cut.along).scaled(getattr(facts, role.cut.unit) if role.cut.unit else 1)
    if not len(owned):
        return None
    if role.cut.style == "whole":
        return WHOLE
    return Part({"colwise": 0, "rowwise": 1}[role.cut.style], owned)


def owned_part(weight: str, shard: Shard, facts: ModelFacts) -> Part:
    """What `shard` owns of a weight that is among its own."""
    part = part_of(weight, shard, facts)
    assert part is not None, f"rank {shard.rank} owns nothing of {weight}"
    return part
