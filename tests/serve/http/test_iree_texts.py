"""Embeddings of a package by IREE, served with one thread and with two, beside ncnn's."""

import re
import signal
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest

from mpsplit.runtime.engine.cores import cores
from tests.missing import needs
from tests.networks import make_reader
from tests.running import CLEAN, MPSPLIT, hear_interrupts, mpsplit

pytestmark = [needs("iree"), pytest.mark.thorough, pytest.mark.seconds(200)]
TEXTS = ["a cat", "two dogs and a cat", "A CAT"]
WORKER = "iree-worker"  # how IREE's task runtime names its threads


def served(package: Path, threads: int) -> tuple[np.ndarray, int]:
    """The vectors, and how many workers of IREE the server has."""
    child = subprocess.Popen(
        list(map(str, [*MPSPLIT, "serve", package, "--port", 0, "--model-name", "reader"])),
        stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts, env=CLEAN | {"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    try:
        said = child.stdout.readline()
        found = re.match(r"reader at (http://127.0.0.1:\d+)", said)
        assert found, said
        reply = httpx.post(f"{found[1]}/v1/embeddings", json={"input": TEXTS}, timeout=30).json()
        names = [path.read_text() for path in Path(f"/proc/{child.pid}/task").glob("*/comm")]
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(20)
        child.stdout.close()
    return np.array([item["embedding"] for item in reply["data"]]), sum(name.startswith(WORKER) for name in names)


def test_embeddings_are_those_of_ncnn_with_one_thread_and_with_two(tmp_path):
    package = tmp_path / "p"
    model = make_reader("encoder", tmp_path / "m")
    mpsplit("partition", model, "--stages", 1, "--out", package, "--ranks", 1, "--serial")
    mpsplit("convert", package, "--compiler", "iree", "--serial")
    one, none = served(package, 1)
    two, workers = served(package, 2)
    mpsplit("convert", package, "--serial")
    wanted, _ = served(package, 1)
    np.testing.assert_allclose(one, wanted, atol=1e-5)
    np.testing.assert_allclose(two, wanted, atol=1e-5)
    assert none == 0 and workers == (2 if cores() > 1 else 0)
