"""MODEL, cut and closed: what `stages`, `plan` and `partition` begin with.

In: a model's folder, what the user said of the stages. Out: a CutModel.

Invariant: the same model and wishes give the same stages, on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpsplit.errors import ConvertError
from mpsplit.export.model.model_source import read_config
from mpsplit.export.stages.captured import Capture, capture
from mpsplit.export.stages.counting import USUAL, counted
from mpsplit.export.stages.made_values import Made
from mpsplit.export.stages.model_builder import IMAGE, LENGTHS, TEXT, Subject, build
from mpsplit.export.stages.shard_parts import Part, linears_of, own_graph, parts_of, sizes_of
from mpsplit.export.stages.shard_program import ShardExtraction
from mpsplit.export.stages.stage_shell import Wanted
from mpsplit.package.stages.growing_shapes import FORM, LENGTH, Shape
from mpsplit.package.stages.image_settings import ImageSettings
from mpsplit.package.stages.pipeline import FLOAT, WHOLE, MadeValue, Pipeline, Stage, Value
from mpsplit.package.stages.sentence_settings import SentenceSettings
from mpsplit.package.stages.sharded_part import ShardedPart
from mpsplit.plan.stages import cutting
from mpsplit.plan.stages.closing import ClosedStage, closed
from mpsplit.plan.stages.counted_graph import CountedGraph
from mpsplit.plan.stages.index_lists import Cut, Wish, cuts_of, members, size_of
from mpsplit.plan.stages.placing import StageCost
from mpsplit.plan.stages.sharing import PartCost

DTYPES = {torch.float32: FLOAT, torch.int64: WHOLE}
USUAL_STAGES = 8  # without a wish, where the graph has so many places


@dataclass(frozen=True)
class CutModel:
    """`lengths`: two to convert with, where the length grows. `parts`: of each stage, what several
    ranks compute."""

    folder: Path
    subject: Subject
    capture: Capture
    graph: CountedGraph
    stages: tuple[ClosedStage, ...]
    parts: tuple[tuple[Part, ...], ...]
    sentences: SentenceSettings | None = None

    @property
    def architecture(self) -> str:
        return type(self.subject.module).__name__

    @property
    def lengths(self) -> tuple[int, ...]:
        if not self.subject.growing:
            return (USUAL,)
        first = self.subject.length
        return first, next((n for n in LENGTHS if n != first and n <= self.subject.longest), first - 1)

    @property
    def costs(self) -> list[StageCost]:
        """For placing.py; what is handed on is all that crosses the border behind a stage."""
        costs, place = [], 0
        for stage in self.stages:
            place += len([name for name in stage.nodes if name not in stage.copied])
            handed = sum(self.graph.bytes_of(value) for value in cutting.crossing(self.graph, place))
            costs.append(StageCost(stage.name, stage.bytes, stage.flops, handed))
        return costs

    @property
    def most_shards(self) -> int:
        return max([1, *(len(part.shards) for parts in self.parts for part in parts)])

    def wanted(self, number: int) -> Wanted:
        """Of a stage, what its rank computes itself."""
        stage, parts = self.stages[number], self.parts[number]
        if not parts:
            return Wanted(stage.nodes, stage.inputs, stage.made, stage.outputs, stage.weights)
        own = own_graph(self.capture, stage.nodes, stage.inputs, stage.made, stage.outputs, parts)
        inputs = tuple(name for name in own.inputs if name not in stage.made)
        made = tuple(name for name in own.inputs if name in stage.made)
        weights = dict.fromkeys(name for node in own.nodes for name in self.graph.by_name[node].weights)
        return Wanted(own.nodes, inputs, made, own.outputs, tuple(weights))

    def pipeline(self, ends: tuple[int, ...], ranks: int | None = None) -> Pipeline:
        """`ends`: where each rank's run of stages ends; `ranks`: all there are, also those that
        have shards alone."""
        ranks = ranks or len(ends)
        given = dict.fromkeys(self.capture.inputs) | {v: None for stage in self.stages for v in stage.outputs}
        given |= {name: None for parts in self.parts for part in parts for name in (part.takes, part.gives)}
        config = read_config(self.folder)
        labels = config.get("id2label") or {}
        return Pipeline(
            values={name: self._value(name) for name in given},
            inputs=self.capture.inputs,
            outputs=self.capture.outputs,
            stages=tuple(
                self._stage(number, sum(end <= number for end in ends), ranks) for number in range(len(self.stages))
            ),
            longest=self.capture.longest,
            labels=tuple(str(labels[key]) for key in sorted(labels, key=int)),
            images=self._images(),
            sentences=self.sentences if TEXT in self.capture.inputs else None,
        ).check()

    def _stage(self, number: int, rank: int, ranks: int) -> Stage:
        stage, parts = self.stages[number], self.parts[number]
        wanted = self.wanted(number)
        constants = {name for node in stage.nodes for name in self.graph.by_name[node].constants}
        return Stage(
            name=stage.name,
            rank=rank,
            inputs=stage.inputs,
            outputs=stage.outputs,
            made=tuple(self._made(name, self.capture.made[name]) for name in stage.made),
            weights=stage.bytes // 4,
            bytes=stage.bytes,
            flops=stage.flops,
            constants=sum(self.capture.node(name).meta["val"].nbytes for name in constants),
            shared=stage.shared,
            copied=stage.copied,
            parts=tuple(self._part(part, rank, ranks) for part in parts),
            graph_inputs=(*wanted.inputs, *wanted.made) if parts else (),
            graph_outputs=tuple(wanted.outputs) if parts else (),
        )

    def part_costs(self, ends: tuple[int, ...], ranks: int) -> list[PartCost]:
        """For sharing.py."""
        pipeline = self.pipeline(ends, ranks)
        return [
            PartCost(
                lead=stage.rank,
                ranks=part.ranks,
                weights=part.bytes,
                flops=tuple(part.flops * size_of(runs) / part.size for runs in part.shards),
                passed=part.passed(pipeline.shapes, USUAL),
            )
            for stage in pipeline.stages
            for part in stage.parts
        ]

    def _part(self, part: Part, lead: int, ranks: int) -> ShardedPart:
        shards = range(len(part.shards))
        return ShardedPart(
            modules=part.modules,
            cut=part.cut,
            takes=part.takes,
            gives=part.gives,
            axis=part.axis,
            ranks=members(lead, part.said, ranks, part.modules[0]),
            shards=part.shards,
            bytes=tuple(ShardExtraction(self.capture, part, shard).bytes for shard in shards),
            flops=part.flops,
            whole=(0,) * len(shards),
        )

    def _value(self, name: str) -> Value:
        return Value(*self._described(name))

    def _made(self, name: str, made: Made) -> MadeValue:
        return MadeValue(name, made.kind, *self._described(name), offset=made.offset, axis=made.axis)

    def _described(self, name: str) -> tuple[str, Shape]:
        tensor = self.capture.node(name).meta["val"]
        if tensor.dtype not in DTYPES:
            raise ConvertError(f"{name} of {tensor.dtype} crosses a border; stages hand on float32 and int64 alone")
        return DTYPES[tensor.dtype], tuple(_size(size, name) for size in tensor.shape)

    def _images(self) -> ImageSettings | None:
        if IMAGE not in self.capture.inputs:
            return None
        _, channels, height, width = self.subject.inputs[IMAGE].shape
        return ImageSettings.read(self.folder, channels, height, width)


def cut_model(
    folder: Path, wish: str | None = None, length: int | None = None, shards: Sequence[Wish] = ()
) -> CutModel:
    """`wish`: a number of stages, or modules that one begins with, with commas between them.
    `shards`: which linears are divided."""
    sentences = SentenceSettings.read(folder)  # which refuses before the work
    subject = build(folder, length)
    captured = capture(subject)
    graph = counted(captured)
    stages = closed(graph, _cuts(graph, wish))
    cuts: dict[str, Cut] = {}
    if shards:
        modules = dict.fromkeys(node.module for node in graph.nodes)
        cuts = cuts_of(shards, sizes_of(linears_of(captured)), tuple(modules))
    flops = {node.name: node.flops for node in graph.nodes}
    parts = tuple(parts_of(captured, stage.nodes, cuts, flops) for stage in stages)
    return CutModel(folder, subject, captured, graph, stages, parts, sentences)


def _cuts(graph: CountedGraph, wish: str | None) -> tuple[int, ...]:
    if wish is None:
        return cutting.balanced(graph, min(USUAL_STAGES, max(1, len(cutting.places(graph)) + 1)))
    if wish.isdecimal():
        return cutting.balanced(graph, int(wish))
    return cutting.at_modules(graph, [path.strip() for path in wish.split(",")])


def _size(size: Any, name: str) -> int | str:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    [symbol] = expression.free_symbols
    text = str(expression).replace(str(symbol), LENGTH).replace(" ", "")
    if not FORM.fullmatch(text):
        raise ConvertError(f"{name} has a size of {text}, which stages cannot follow; fix the length with --length N")
    return text
