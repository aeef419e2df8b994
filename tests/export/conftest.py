"""Partitions whose sliced modules run as they are, before anything is traced or converted."""

from __future__ import annotations

import pytest

from mpsplit.check.verification import Trial, sliced
from mpsplit.package.manifest import PARTITION, Manifest
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.missing import need
from tests.packages import partition_evenly
from tests.traced import trace_once


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    trace_once()


@pytest.fixture(scope="module")
def partition_of(world, shared_folder, model_of):
    def make(family, tensor, pipeline):
        folder = model_of(family)
        out = shared_folder / f"sliced-{family}-{tensor}x{pipeline}"
        if not out.exists():
            world.exchange(None)
            partition_evenly(folder, out, tensor, pipeline, world)
        world.exchange(None)
        return out, folder

    return make


@pytest.fixture
def loop_of(world, partition_of):
    if world.size > 1:
        need("the torch operators")
    engines = []

    def make(family, tensor, pipeline):
        package, folder = partition_of(family, tensor, pipeline)
        engines.append(sliced(Manifest.load(package, PARTITION), folder, world))
        return TokenLoop(engines[-1], world, None, chunk=9), Trial(package, folder, layers=True)

    yield make
    for engine in engines:
        engine.close()
