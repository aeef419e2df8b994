"""Hosts with a slow cable between them: what 1 ms and 5 ms links cost a token, predicted and
measured."""

import json
import sys

import pytest

from tests.cases import thorough
from tests.missing import need
from tests.namespaces import hosts, run_ranks


@pytest.fixture(scope="module")
def needed():
    need("gloo", "a network of one's own")


@pytest.mark.alone
@pytest.mark.clock
@pytest.mark.seconds(200)
@pytest.mark.parametrize("tensor, pipeline", [(2, 1), *thorough((1, 2))])
@pytest.mark.parametrize("delay_ms", [1, *thorough(5)])
def test_the_cost_of_slow_links_is_predicted(needed, tmp_path, package_of, delay_ms, tensor, pipeline):
    package = package_of("llama", tensor, pipeline)
    with hosts([f"mps-{delay_ms}-{i}" for i in range(2)], delay_ms) as on:
        done = run_ranks(on, [str(package)], tmp_path, [sys.executable, "-m", "tests.runtime.slow_link_ranks"])
    assert [rank.returncode for rank in done] == [0, 0], [rank.stderr for rank in done]
    result = json.loads(done[0].stdout)
    print(f"\n{tensor} x {pipeline}, {delay_ms} ms: {result}")
    assert "shm" not in result["transport"]
    assert result["predicted_ms"] > delay_ms * (2 * 3 + 1 if tensor == 2 else 1)
    assert 0.6 < result["measured_ms"] / result["predicted_ms"] < 1.7
