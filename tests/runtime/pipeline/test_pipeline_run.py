"""The schedule, with stages that are formulas: any number of inputs, on any number of ranks."""

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from tests.runtime.pipeline.formulas import expected, run_of


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
