"""Bursts of inputs over ranks, with rest and reports between them."""

import time

import numpy as np
import pytest

from mpsplit.runtime.pipeline.bursts import Bursts
from tests.runtime.pipeline.formulas import expected, run_of


@pytest.mark.mpi
def test_bursts_and_reports_in_any_order(world):
    bursts = Bursts(run_of(world))
    if world.rank:
        bursts.follow()
        return
    for count in (1, 5, 0, 2):
        inputs = [{"x": np.full((1, 1000 + i), i, np.float32)} for i in range(count)]
        outputs = list(bursts.lead(inputs))
        assert len(outputs) == count
        for given, found in zip(inputs, outputs, strict=True):
            np.testing.assert_array_equal(found["out"], expected(bursts.run.pipeline, given["x"])["out"])
        accounts = bursts.report()
        assert len(accounts) == world.size and all(account.peak_rss > 2**20 for account in accounts)
        assert all(account.prompt >= account.prompt_between >= 0 for account in accounts)
        if count and world.size > 1:
            assert accounts[0].sent > 4000 * count
    time.sleep(0.2)  # the others rest
    bursts.end()
