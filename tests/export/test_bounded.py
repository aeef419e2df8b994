"""Memory of a conversion does not grow with the model: a checkpoint of 1 GB, measured from outside,
children counted. A rank's half of the weights in float32 is 970e6 bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpsplit.plan.price.making import MAKING
from tests.missing import needs
from tests.running import CLEAN

ROOT = Path(__file__).parents[2]


@pytest.mark.seconds(400)
@needs("the kernels")
def test_a_checkpoint_of_one_gigabyte(tmp_path):
    command = [sys.executable, ROOT / "bench" / "conversion.py", "--shape", "llama-1.1b", "--layers", "8"]
    done = subprocess.run(
        [*command, "--ranks", "2", "--dir", tmp_path, "--json"],
        capture_output=True, text=True, env=CLEAN | {"PYTHONPATH": str(ROOT)}, timeout=390, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sum(own for _, own in told["read"]) > 0.96e9
    for read, own in told["read"]:
        assert read < 1.02 * own
    for step in told["steps"]:
        if step["name"] != "run":
            assert len(step["peak"]) == 2 and min(step["peak"]) > 50e6 and max(step["peak"]) < MAKING, step
