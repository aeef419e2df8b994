"""The schedule, with stages that are formulas: any number of inputs, on any number of ranks."""

from itertools import pairwise

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
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


@pytest.mark.mpi
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("size", [3, 300_000])  # the larger do not fit into a link's buffers
def test_each_input_comes_out_once_and_in_order(world, count, size):
    run = run_of(world)
    if world.rank:
        run.follow()
        return
    inputs = [{"x": np.full((1, size + i), i, np.float32)} for i in range(count)]
    outputs = list(run.lead(inputs))
    run.end()
    assert run.inputs == len(outputs) == count
    for given, found in zip(inputs, outputs, strict=True):
        for name, array in expected(run.pipeline, given["x"]).items():
            np.testing.assert_array_equal(found[name], array)


def test_an_input_of_another_shape_is_refused_with_both():
    run = run_of(Alone())
    with pytest.raises(RunError, match=r"x has shape \[2, 3\], the model takes \[1, length\]"):
        next(run.lead([{"x": np.zeros((2, 3), np.float32)}]))
