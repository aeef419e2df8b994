"""Whether another plan cuts blocks apart.

In: the plan that a package was made for, the new one, how its weights are stored. Out: nothing, or
the first cut that does, and what would not.

Weights that share a scale follow each other along the inputs, which only rowwise linears are cut
along. Invariant: a block that begins or ends at a cut of both plans is whole in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mpsplit.errors import PlanError
from mpsplit.package.stored.quantisation import BFLOAT, BLOCKS
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.cuts import linears_of, part_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Range, Shard, even_plan


@dataclass(frozen=True)
class Split:
    """`block`: the inputs that share a scale; the new plan cuts at `at`, between them."""

    weight: str
    rank: int
    at: int
    block: Range

    @property
    def nearest(self) -> int:
        return self.block.stop if self.block.stop - self.at <= self.at - self.block.start else self.block.start


def splits(old: Plan, shards: Iterable[Shard], facts: ModelFacts, recipe: Recipe) -> Iterator[Split]:
    """What the new shards would cut apart."""
    for shard in shards:
        for weight in linears_of(facts):
            inputs, how = _inputs(weight, shard, facts), recipe.kind_of(weight)
            if inputs is None or how.bits in (0, BFLOAT):
                continue
            theirs = [before for other in old.shards if (before := _inputs(weight, other, facts))]
            for at in (inputs.start, inputs.stop):
                around = next((before for before in theirs if before.start <= at < before.stop), None)
                if around and (past := (at - around.start) % how.block):
                    yield Split(weight, shard.rank, at, Range(at - past, at - past + how.block))


def _inputs(weight: str, shard: Shard, facts: ModelFacts) -> Range | None:
    """Which a shard has of a weight that is cut along them."""
    part = part_of(weight, shard, facts)
    return part.along(1) if part else None


def check_file_blocks(plan: Plan, facts: ModelFacts, recipe: Recipe) -> None:
    """Of a file, which has the model as one rank would."""
    _check(even_plan(facts, 1, 1), plan, range(plan.ranks), facts, recipe, lambda size: "convert it with --quant")


def check_blocks(old: Plan, new: Plan, ranks: Iterable[int], facts: ModelFacts, recipe: Recipe) -> None:
    """Of some ranks of the new plan."""

    def otherwise(size: int) -> str:
        smaller = f" --block {BLOCKS[0]}" if size > BLOCKS[0] else ""
        return f"partition the original for this plan and convert it{smaller}"

    _check(old, new, ranks, facts, recipe, otherwise)


def _check(
    old: Plan,
    new: Plan,
    ranks: Iterable[int],
    facts: ModelFacts,
    recipe: Recipe,
    otherwise: Callable[[int], str],
) -> None:
    """`otherwise`: what else can be done, where a block has so many weights."""
    cut_apart = [*splits(old, (new.shards[rank] for rank in ranks), facts, recipe)]
    if not cut_apart:
        return
    first, *others = cut_apart
    size = len(first.block)
    more = f", and {len(others)} more like it" if others else ""
    raise PlanError(
        f"the plan cuts {first.weight} at input {first.at} (rank {first.rank}), inside the block {first.block} whose"
        f" {size} weights share a scale{more}; the nearest cut that does not is at {first.nearest};"
        f" {_fitting(old, new.ranks, facts, recipe)}, or {otherwise(size)}"
    )


def _fitting(old: Plan, ranks: int, facts: ModelFacts, recipe: Recipe) -> str:
    """Even plans of as many ranks that split nothing."""
    shapes = [(ranks // stages, stages) for stages in range(1, min(ranks, facts.layers) + 1) if ranks % stages == 0]
    fitting = [
        f"--tensor {tensor} --pipeline {pipeline}"
        for tensor, pipeline in shapes
        if not any(splits(old, even_plan(facts, tensor, pipeline).shards, facts, recipe))
    ]
    return f"use {' or '.join(fitting)}" if fitting else "use --plan with cuts between blocks"
