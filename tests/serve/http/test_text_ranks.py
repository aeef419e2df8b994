"""Embeddings over two real ranks, as a user starts the server: alike, rested, and to the end."""

import os
import re
import signal
import subprocess
import time

import httpx
import numpy as np
import pytest

from mpsplit.mpirun import OPEN_MPI, PASS_SIGNALS
from tests.networks import make_reader
from tests.running import CLEAN, MPSPLIT, descendants, gone, hear_interrupts, mpsplit, refused

LIMIT = 2  # seconds that a silent rank is waited for


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    mpsplit(
        "partition",
        make_reader("encoder", folder / "m"),
        "--stages",
        4,
        "--out",
        folder / "p",
        "--ranks",
        2,
        "--serial",
    )
    mpsplit("convert", folder / "p", "--serial")
    return folder / "p"


@pytest.fixture
def server(package):
    """(the process, its address)"""
    command = [*MPSPLIT, "serve", package, "--port", 0, "--model-name", "reader"]
    child = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts,
        env={**OPEN_MPI, **PASS_SIGNALS, **CLEAN, "MPSPLIT_TIMEOUT": str(LIMIT)},
    )  # fmt: skip
    said = child.stdout.readline()
    found = re.match(
        r"reader at (http://127.0.0.1:\d+), over 2 ranks; embeddings of 32 numbers, of up to 48 tokens", said
    )
    assert found, said
    yield child, found[1]
    child.kill()
    child.wait()
    child.stdout.close()


def embeddings(address: str, texts: list[str]) -> np.ndarray:
    reply = httpx.post(f"{address}/v1/embeddings", json={"input": texts}, timeout=30)
    assert reply.status_code == 200, reply.text
    return np.array([item["embedding"] for item in reply.json()["data"]])


@pytest.mark.seconds(300)
def test_ranks_rest_answer_and_leave(server, package):
    child, address = server
    texts = ["a cat", "two dogs", "no fish at all", "z"]
    first = embeddings(address, texts)
    time.sleep(LIMIT + 1)  # longer than a rank may be silent, but nobody asked it anything
    np.testing.assert_array_equal(embeddings(address, texts[::-1]), first[::-1])
    ranks = httpx.get(f"{address}/ranks").json()["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1] and all(rank["memory_bytes"] > 2**20 for rank in ranks)
    below = [pid for pid, _ in descendants(child.pid)]
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0 and gone(below)


@pytest.mark.seconds(300)
def test_a_dead_rank_ends_the_server(server):
    child, address = server
    embeddings(address, ["a"])
    below = descendants(child.pid)
    [last] = [pid for pid, _ in below if _rank(pid) == "1"]
    os.kill(last, signal.SIGKILL)
    assert child.wait(30) != 0 and gone([pid for pid, _ in below])


def _rank(pid: int) -> str:
    with open(f"/proc/{pid}/environ", encoding="utf-8") as file:
        found = re.search(r"\0OMPI_COMM_WORLD_RANK=(\d+)", file.read())
    return found[1] if found else ""


@pytest.mark.seconds(300)
def test_what_is_refused(package):
    assert "--context is for decoders" in refused("serve", package, "--context", 5)
    assert "--temperature is for decoders" in refused("serve", package, "--temperature", 0.5)
    assert "has stages for 2 ranks, 3 were started" in refused("serve", package, "--ranks", 3)
