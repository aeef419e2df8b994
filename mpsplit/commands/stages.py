"""`mpsplit stages`: a model's graph cut into closed stages, as a table.

In: a model. Out: what each stage takes, gives, weighs and closes over. No weights are needed.
"""

from __future__ import annotations

import argparse
import json

from mpsplit.options.model_argument import add_model
from mpsplit.options.stage_options import add_stages, cut_of
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.progress import console

USUAL = 128  # tokens, where the length grows


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_stages(parser)
    parser.add_argument("--json", action="store_true", help="print stages.json as partition would write it")


def stages_command(args: argparse.Namespace) -> int:
    from mpsplit.export.model.model_source import find_config

    model = cut_of(args, find_config(args.model))
    pipeline = model.pipeline((len(model.stages),), model.most_shards)
    if args.json:
        print(json.dumps(pipeline.to_json(), ensure_ascii=False))
    else:
        print(f"{model.architecture}: {len(pipeline.stages)} stages, {_total(pipeline)}")
        show_stages(pipeline)
    return 0


def show_stages(pipeline: Pipeline) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "stage", "takes", "gives"):
        table.add_column(title, overflow="fold")
    for title in ("parameters", "bytes", "Mflop"):
        table.add_column(title, justify="right")
    table.add_column("closes over", overflow="fold")
    several = pipeline.depth > 1
    for number, stage in enumerate(pipeline.stages):
        table.add_row(
            f"{number}{f' r{stage.rank}' if several else ''}", stage.name,
            escape(_values(pipeline, stage.inputs)), escape(_values(pipeline, stage.outputs)),
            f"{stage.weights:,}", f"{stage.bytes:,}", f"{stage.flops / 1e6:,.1f}", escape(stage.closes_over),
        )  # fmt: skip
    console().print(table)
    for stage in pipeline.stages:
        for part in stage.parts:
            passed = part.traffic(pipeline.shapes, stage.rank, USUAL)
            print(f"shards of {stage.name}: {part}, {passed:,} bytes an input")


def held_by(pipeline: Pipeline, rank: int) -> str:
    """For people: how many stages and shards."""
    shards = f", {len(pipeline.shards_of(rank))} shards" if pipeline.sharded else ""
    return f"{len(pipeline.of_rank(rank))} stages{shards}"


def _values(pipeline: Pipeline, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {pipeline.values[name]}" for name in names)


def _total(pipeline: Pipeline) -> str:
    parameters = sum(stage.weights for stage in pipeline.stages)
    flops = sum(stage.flops for stage in pipeline.stages)
    return f"{parameters:,} parameters, {flops / 1e9:,.2f} Gflop an input" + (
        " of 128 tokens" if pipeline.grows else ""
    )
