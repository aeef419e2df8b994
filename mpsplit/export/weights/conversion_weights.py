"""What one conversion reads, and what it knows of it.

In: a source, its origin. Out: Weights, which convert and repartition hand on.

Invariant: blocks that a checkpoint has already are kept where nobody asks for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpsplit.export.model.gguf.gguf_blocks import GgufBlocks
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.model_origin import Origin, open_model
from mpsplit.export.weights.block_cuts import check_file_blocks
from mpsplit.export.weights.encode import Encoder, EncoderOf
from mpsplit.export.weights.weight_source import Source
from mpsplit.export.weights.weight_store import Index
from mpsplit.package.manifest import Manifest
from mpsplit.package.stored.embedding import HEAD_ROWS, dtype_of
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.cuts import one_matrix
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan


@dataclass(frozen=True)
class Weights:
    """`embedding`: the type that its rows will have, as the manifest spells it. `encoder_of`: None
    where the recipe tells all. Of a package also its `identity`, the `recipe` that it was made
    with, in words, and which of its files may be `unchanged`, by the ranks' folders."""

    source: Source
    origin: Origin
    embedding: str
    encoder_of: EncoderOf | None = None
    identity: str | None = None
    recipe: str | None = None
    unchanged: Mapping[Path, Index] = field(default_factory=dict)


def of_checkpoint(
    package: Path, partition: Manifest, recipe: Recipe, model: Path | None
) -> tuple[Weights | None, Recipe]:
    """And the recipe as it holds for this checkpoint. No weights where partition saw a config
    alone, and nobody says where the model is."""
    origin = Origin.load(package)
    if not (origin or model):
        return None, replace(recipe, own=False)
    checkpoint, origin = open_model(origin, model)
    if recipe.own and isinstance(checkpoint, GgufCheckpoint):
        return _of_blocks(GgufBlocks(checkpoint, partition.facts, recipe), origin, partition)
    recipe = replace(recipe, own=False)
    dtype = checkpoint.type_of(partition.facts.family.embedding)
    return Weights(checkpoint, origin, embedding_type(partition.plan, partition.facts, recipe, dtype)), recipe


def _of_blocks(source: GgufBlocks, origin: Origin, partition: Manifest) -> tuple[Weights, Recipe]:
    recipe, scales = source.recipe, source.recipe.scales
    check_file_blocks(partition.plan, partition.facts, recipe)

    def encoder_of(name, how):
        return Encoder(how, scales) if how.bits and source.encoder_needed(name) else None

    embedding = embedding_type(partition.plan, partition.facts, recipe, source.embedding)
    return Weights(source, origin, embedding, encoder_of, recipe=source.text), recipe


def embedding_type(plan: Plan, facts: ModelFacts, recipe: Recipe, stored: str) -> str:
    """`stored`: the type that its rows have where no pattern names it."""
    is_head = one_matrix(plan, facts) and recipe.one_kind(facts.family.head)
    if is_head:
        return HEAD_ROWS
    return dtype_of(recipe.embedding.block) if recipe.embedding else stored
