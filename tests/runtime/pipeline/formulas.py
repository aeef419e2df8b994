"""Stages that are formulas: pipelines without a model, on any number of ranks."""

from itertools import pairwise

import numpy as np

from mpsplit.package.stages.pipeline import FLOAT, Pipeline, Stage, Value
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun


class Formula:
    """Adds its number to each of its inputs, and all of them together."""

    def __init__(self, stage: Stage, number: int):
        self.stage, self.number = stage, number

    def run(self, given, length):
        total = sum(given[name] + np.float32(self.number) for name in self.stage.inputs)
        return {name: total for name in self.stage.outputs}


def pipeline_of(ranks: int, a_rank: int = 2) -> Pipeline:
    """A chain, whose first value every second stage reads too."""
    count = ranks * a_rank
    names = ["x", *(f"v{i}" for i in range(count))]
    stages = [
        Stage(f"s{i}", i // a_rank, (before, "v0") if i % 2 and i > 1 else (before,), (after,))
        for i, (before, after) in enumerate(pairwise(names))
    ]
    values = {name: Value(FLOAT, (1, "length")) for name in names}
    return Pipeline(values, ("x",), {"out": names[-1], "early": "v0"}, tuple(stages), 1 << 20).check()


def run_of(comm) -> PipelineRun:
    pipeline = pipeline_of(comm.size)
    return PipelineRun(pipeline, [Formula(pipeline.stages[i], i) for i in pipeline.of_rank(comm.rank)], comm)


def expected(pipeline: Pipeline, x: np.ndarray) -> dict[str, np.ndarray]:
    values = {"x": x}
    for number, stage in enumerate(pipeline.stages):
        values |= Formula(stage, number).run(values, 0)
    return {name: values[value] for name, value in pipeline.outputs.items()}
