"""Threads of a rank: never more than its share of the cores."""

import os

import pytest

from mpsplit.runtime.engine.cores import share_of_cores


@pytest.mark.parametrize(
    "cores, ranks, asked, threads",
    [
        (8, 1, "", 8),
        (8, 2, "", 4),
        (8, 3, "", 2),
        (8, 2, "3", 3),
        (8, 2, "8", 4),
        (2, 4, "", 1),
        (4, 1, "many", 4),
        (4, 1, "0", 4),
    ],
)
def test_a_share(monkeypatch, cores, ranks, asked, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert share_of_cores(ranks) == threads
