"""A rank's graphs: its traced miniature through pnnx, then rewritten to the whole slice.

In: a partition. Out: texts, no weights. What was rewritten can be read in rank-R/passes/, one
.param after each step.

Invariant: the graph has the collectives of its trace, in their order.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import ConvertError, PackageError
from mpsplit.export.graph.fuse import fuse
from mpsplit.export.graph.named_weights import named_weights
from mpsplit.export.graph.packed_linears import quantise
from mpsplit.export.graph.pnnx import Pnnx, run_pnnx, shapes_of
from mpsplit.export.graph.rewrites import REWRITES, Context
from mpsplit.export.trace.miniature import miniature
from mpsplit.export.trace.trace_inputs import examples
from mpsplit.export.trace.trace_structure import Structure
from mpsplit.package.checked.graph_check import check_shapes
from mpsplit.package.checked.layer_shapes import RankSizes
from mpsplit.package.collectives import BY_LAYER, Call
from mpsplit.package.manifest import Manifest, rank_folder
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.recipe import Recipe

PASSES = "passes"


@dataclass(frozen=True)
class Graphs:
    """`param`: what any ncnn can run, with our layers; `fused`: the native engine's."""

    param: Param
    fused: Param

    @property
    def schedule(self) -> tuple[Call, ...]:
        return schedule_of(self.param)


def make_graphs(
    partition: Manifest, package: Path, rank: int, pnnx: Pnnx, recipe: Recipe, readable: bool = True
) -> Graphs:
    """`readable`: what was rewritten stays in passes/."""
    folder = rank_folder(package, rank)
    shard = partition.plan.shards[rank]
    passes, partial = folder / PASSES, folder / f".{PASSES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        steps = {"pnnx": _converted(partition, folder, rank, pnnx, partial)}
        context = _context(partition, folder, rank)
        for rewrite in REWRITES:
            steps[rewrite.__name__] = rewrite(list(steps.values())[-1], context)
        steps["quantise"] = param = quantise(list(steps.values())[-1], recipe, partition.facts.family)
        shutil.rmtree(passes, ignore_errors=True)
        if readable:
            for number, (name, step) in enumerate(steps.items()):
                (partial / f"{number:02}-{name}.param").write_text(str(step), encoding="utf-8")
            os.replace(partial, passes)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    graphs = Graphs(param, fuse(param, shard.head.start))
    if graphs.schedule != partition.ranks[rank].schedule:
        raise ConvertError(
            f"the graph of rank {rank} has {len(graphs.schedule)} collectives, its trace"
            f" {len(partition.ranks[rank].schedule)}, or others; partition again"
        )
    for graph in (graphs.param, graphs.fused):
        check_shapes(graph, RankSizes.of(partition, rank, fused=graph is graphs.fused))
    assert schedule_of(graphs.fused) == graphs.schedule, "fusing changed the order of the collectives"
    return graphs


def _converted(partition: Manifest, folder: Path, rank: int, pnnx: Pnnx, into: Path) -> Param:
    """What pnnx makes of the miniature, its layers named."""
    scripts = sorted(folder.glob(f"*-{rank}.pt"))
    if len(scripts) != 1:
        raise PackageError(
            f"{folder} holds {len(scripts)} traced slices (*-{rank}.pt) instead of one; run `mpsplit partition` again"
        )
    small = miniature(partition.facts, partition.plan, rank)
    shapes = list(map(shapes_of, examples(small.facts)))
    converted = run_pnnx(pnnx, scripts[0], shapes, into)
    param = named_weights(Param.load(converted.ncnn_param), converted.ncnn_bin, Structure.load(folder).small)
    converted.ncnn_param.unlink()
    converted.ncnn_bin.unlink()
    return param


def _context(partition: Manifest, folder: Path, rank: int) -> Context:
    shard, small = partition.plan.shards[rank], miniature(partition.facts, partition.plan, rank)
    lengths = tuple(example.length for example in examples(small.facts))
    head, shapes = bool(len(shard.head)), Structure.load(folder).shapes
    traced = small.plan.shards[rank].layers
    schedule = partition.ranks[rank].schedule
    return Context(
        _of_fewer_layers(schedule, len(shard.layers), len(traced)),
        lengths,
        shard.attentions,
        head,
        shard.layers,
        shapes,
        partition.facts.family.layers,
    )


def _of_fewer_layers(schedule: tuple[Call, ...], layers: int, fewer: int) -> tuple[Call, ...]:
    """The collectives of the same graph with fewer decoder layers, which all have the same: so many
    sums."""
    sums = [i for i, call in enumerate(schedule) if call.operator == "all_reduce"]
    of_layer = len(sums) // layers if layers else 0  # the sum over the embedding is one more
    gone = set(sums[len(sums) - of_layer * (layers - fewer) :]) if of_layer else set()
    return tuple(call for i, call in enumerate(schedule) if i not in gone)


def schedule_of(param: Param) -> tuple[Call, ...]:
    """The collectives that the engine will run, read from the final graph."""
    return tuple(_call(layer) for layer in param.layers if layer.type in BY_LAYER)


def _call(layer: Layer) -> Call:
    collective = BY_LAYER[layer.type]
    missing = [str(i) for i in range(1, len(collective.arguments) + 1) if str(i) not in layer.params]
    if missing:
        raise ConvertError(f"{layer.name} lacks parameter {', '.join(missing)} ({layer})")
    return Call(collective.operator, tuple(int(layer.params[str(i)]) for i in range(1, len(collective.arguments) + 1)))
