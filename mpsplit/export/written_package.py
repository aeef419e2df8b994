"""A package of graphs that somebody wrote: no checkpoint, no trace.

In: what writes the graph of a shard (mpsplit/graph), weights by their Hugging Face names, a plan.
Out: a package, as `convert` makes it.

A graph has `attention` and weights of f32; ncnn's own attention, quantised matrices and fused
layers follow from it. The family of the facts says what weights are called and how they are cut.
Invariant: a part that the plan cuts has the shape that its rank's graph says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import GraphError, PackageError
from mpsplit.export.graph.collective_schedule import check_schedules
from mpsplit.export.graph.fuse import fuse
from mpsplit.export.graph.packed_linears import quantise
from mpsplit.export.graph.rank_graphs import Graphs
from mpsplit.export.model.given_weights import GivenWeights
from mpsplit.export.new_package import new_package
from mpsplit.export.package_texts import listed, rank_texts
from mpsplit.export.weights.conversion_weights import embedding_type
from mpsplit.export.weights.weight_contents import WeightFile, contents
from mpsplit.export.weights.weight_store import Store
from mpsplit.graph.folding.unfolding import unfolded
from mpsplit.graph.lowered.open_attention import with_open_attention
from mpsplit.graph.lowered.param_of_graph import in_order, param_of
from mpsplit.graph.typed_graph import Graph
from mpsplit.package.checked.graph_check import check_shapes
from mpsplit.package.checked.layer_shapes import RankSizes
from mpsplit.package.manifest import FORM, MANIFEST, PARTITION, WRITTEN, File, Manifest, RankPart, Rope
from mpsplit.package.manifest_fields import FILES
from mpsplit.package.stored.float_weights import FLOAT_BYTES
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.exchanged import by_rank
from mpsplit.package.together.package_commit import NEXT
from mpsplit.package.whole_files import write_json
from mpsplit.plan.cuts import WHOLE, Part, linear_shape, linears_of, part_of, source_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Shard, even_plan

FLOAT = Recipe()


@dataclass(frozen=True)
class WrittenModel:
    """`weights`: whole ones; `graph_of`: what writes a rank's graph, its collectives among the
    steps."""

    name: str
    facts: ModelFacts
    rope: Rope
    weights: Mapping[str, np.ndarray]
    graph_of: Callable[[Shard], Graph]
    eos: tuple[int, ...] = ()


def whole_shapes(facts: ModelFacts, graph_of: Callable[[Shard], Graph]) -> dict[str, tuple[int, ...]]:
    """Of all weights, as one rank has them."""
    given = unfolded(graph_of(even_plan(facts, 1, 1).shards[0])).body.weights
    shapes = {weight.source: tuple(size.value({}) for size in weight.type.shape) for weight in given}
    return {facts.family.embedding: (facts.vocabulary, facts.hidden)} | shapes


def write_package(
    model: WrittenModel, plan: Plan, out: Path, comm: Communicator, recipe: Recipe = FLOAT, force: bool = False
) -> Manifest:
    """Makes the files of this rank, or of all ranks when there is only this process. `recipe`: how
    linears are stored; `force`: also over a package that is whole."""
    facts, source = model.facts, GivenWeights(model.weights)
    plan.check(facts)
    recipe.check(linears_of(facts), facts.hidden)
    recipe = recipe.for_model(facts)
    dtype = embedding_type(plan, facts, recipe, source.TYPE)
    graphs = [_graphs(model, shard, recipe) for shard in plan.shards]
    check_schedules(plan, [of_rank.schedule for of_rank in graphs])
    files = [
        contents(of_rank.param, shard, facts, source, recipe, dtype)
        for of_rank, shard in zip(graphs, plan.shards, strict=True)
    ]
    parts = tuple(RankPart(g.schedule, _bytes(of_rank)) for g, of_rank in zip(graphs, files, strict=True))
    tools = {"mpsplit": version("mpsplit"), "ncnn": version("ncnn"), "recipe": str(recipe), FORM: WRITTEN}
    partition = Manifest(model.name, facts, plan, model.rope, dtype, model.eos, parts, (), (), tools)
    for rank, of_rank in enumerate(graphs):
        _check_graphs(partition, rank, of_rank)
    with new_package(out, comm, plan.ranks, force, at_once=True) as mine:
        stores = {rank: Store(out, rank, files[rank], source, source.origin) for rank in mine}
        made = {rank: _made(out / NEXT, partition, store, graphs[rank]) for rank, store in stores.items()}
        manifest = partition.with_files(by_rank(comm, made, _files), {})
        if comm.host_lead:
            write_json(out / NEXT / PARTITION, partition.to_json())
            write_json(out / NEXT / MANIFEST, manifest.to_json())
    for store in stores.values():
        store.forget_others()
    return manifest


def _made(out: Path, partition: Manifest, store: Store, graphs: Graphs) -> list[dict[str, Any]]:
    """The files of a rank: its weights in their place, its texts below `out`."""
    store.fill(lambda name, count: None)
    texts = rank_texts(store.rank, graphs, None, rank_text(partition, store.rank, store.weight_files))
    for name, data in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return [vars(file) for file in (*listed(texts), *store.listed)]


def _graphs(model: WrittenModel, shard: Shard, recipe: Recipe) -> Graphs:
    """Both graphs of a rank, when its weights are those of the plan."""
    graph, family = model.graph_of(shard), model.facts.family
    _check_weight(family.embedding, (model.facts.vocabulary, model.facts.hidden), WHOLE, model)
    for given in unfolded(graph).body.weights:
        if family.role_of(given.source) is None:
            raise GraphError(f"{given.source} is no weight of a {model.facts.architecture}; weights keep their names")
        if (part := part_of(given.source, shard, model.facts)) is None:
            raise GraphError(f"rank {shard.rank} owns nothing of {given.source}, by its plan")
        if given.type.element != "f32" or any(size.number is None for size in given.type.shape):
            raise GraphError(f"{given.source} is {given.type}; write f32 and numbers, the recipe says how it is stored")
        shape = tuple(size.value({}) for size in given.type.shape)
        _check_weight(given.source, shape, part, model, f" of rank {shard.rank}")
    opened = param_of(with_open_attention(graph), in_order(family.layer_of))
    param = quantise(opened, recipe, family)
    return Graphs(param, fuse(param, shard.head.start))


def _check_weight(name: str, shape: tuple[int, ...], part: Part, model: WrittenModel, whose: str = "") -> None:
    """That the array is as large as the model, and its part as the graph says."""
    tensor = source_of(name, model.facts)
    if tensor not in model.weights:
        raise GraphError(f"{tensor} is missing among the {len(model.weights)} weights; give it as an array")
    found, whole, cut = model.weights[tensor].shape, shape, ""
    if part.axis is not None:
        count = linear_shape(name, model.facts)[part.axis]
        whole = (*shape[: part.axis], count, *shape[part.axis + 1 :])
        cut = f", of which its plan takes {part.range} of {count} along {part.axis}"
    if found != whole or part.shape_of(found) != shape:
        raise GraphError(f"{name}{whose} is {list(shape)}, and its array {list(found)}{cut}")


def _check_graphs(partition: Manifest, rank: int, graphs: Graphs) -> None:
    for graph in (graphs.param, graphs.fused):
        try:
            check_shapes(graph, RankSizes.of(partition, rank, fused=graph is graphs.fused))
        except PackageError as wrong:
            raise GraphError(f"the graph of rank {rank} is none that an engine runs: {wrong}") from None


def _bytes(files: list[WeightFile]) -> int:
    """Of the arrays that a rank reads."""
    arrays = [array for file in files for array in file.arrays if not array.is_derived]
    return FLOAT_BYTES * sum(math.prod(array.shape) for array in arrays)


def _files(files: list[Any]) -> tuple[File, ...]:
    FILES(files, "its files")
    return File.many_from_json(files)
