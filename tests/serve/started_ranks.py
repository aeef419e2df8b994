"""Servers over two ranks as processes, and what becomes of them: for tests that stop, kill and
harm ranks.

In: a package, who starts the ranks. Out: a Served, whose processes are known by name.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from mpsplit.mpirun import OPEN_MPI, PASS_SIGNALS, find_mpirun
from mpsplit.native import cpp
from tests.running import CLEAN, MPSPLIT, descendants, gone

SECONDS = 2  # until nothing is left
ASK = {"model": "vicuna", "prompt": "A", "max_tokens": 400, "ignore_eos": True, "stream": True}
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Japan?"}], "temperature": 0}
ANSWER = "The capital of Japan is Tokyo."


@dataclass
class Served:
    """`started` by us; `processes` by name, those of ranks among them."""

    started: list[subprocess.Popen]
    address: str
    processes: dict[str, int]

    def answer(self, **wishes) -> dict:
        """To QUESTION; it is the one that it is alone."""
        reply = httpx.post(f"{self.address}/v1/chat/completions", json=QUESTION | wishes, timeout=60).json()
        assert reply["choices"][0]["message"]["content"].strip() == ANSWER, reply
        return reply

    def as_before(self) -> None:
        """Nothing runs, no page is taken, all ranks are well and their processes the same."""
        now = httpx.get(f"{self.address}/ranks").json()["load"]
        assert now["running"] == now["waiting"] == now["pages_used"] == 0
        status, health = self.health()
        assert status == 200 and [rank["state"] for rank in health["ranks"]] == ["ok", "ok"]
        assert all(child.poll() is None for child in self.started)

    def health(self, of: str = "") -> tuple[int, dict]:
        reply = httpx.get(f"{self.address}/health{of}")
        return reply.status_code, reply.json()


def begun(command: list, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**OPEN_MPI, **PASS_SIGNALS, **CLEAN, **environment},
    )  # fmt: skip


@contextmanager
def serving_ranks(package: Path, store: Path):
    """how -> a server: by `front`, by `mpirun`, by mpirun with a rank `without Python`, or by
    `nobody`, where one may meet a `fault`: its rank, its name, at which message (faulty_rank.py).
    When the block is left, nothing is left of it within two seconds."""
    all_started, all_pids = [], []

    def start(how: str, *options: str, fault: tuple[int, str, int] | None = None, **environment: str) -> Served:
        command = [*MPSPLIT, "serve", package, "--port", 0, "--model-name", "vicuna", *options]
        if how == "nobody":
            meet = environment | {"WORLD_SIZE": "2", "MPSPLIT_STORE": str(store)}
            if fault:
                command = [sys.executable, "-m", "tests.serve.faulty_rank", *fault, *command[len(MPSPLIT) :]]
            started = [begun(command, RANK=str(rank), **meet) for rank in range(2)]
            processes = {f"rank {rank}": child.pid for rank, child in enumerate(started)}
        else:
            second = [":", "-np", 1, cpp.folder() / "mpsplit-rank", package]
            first = {
                "front": [],
                "mpirun": [find_mpirun(), "-np", 2],
                "without Python": [find_mpirun(), "-np", 1],
            }[how]
            started = [begun([*first, *command, *(second if how == "without Python" else [])], **environment)]
            processes = {}
        all_started.extend(started)
        said = started[0].stdout.readline()
        assert (found := re.match(r"vicuna at (http://127.0.0.1:\d+), over 2 ranks", said)), started[0].stderr.read()
        if not processes:
            processes = processes_below(started[0].pid)
        all_pids.extend(processes.values())
        return Served(started, found[1], processes)

    try:
        yield start
    finally:
        for child in all_started:
            child.kill()
            child.communicate()
    assert gone(all_pids, SECONDS)


def processes_below(front: int) -> dict[str, int]:
    """By name: front, mpirun (which may be the front), and the ranks."""
    below = [pid for pid, line in descendants(front) if "template_sandbox" not in line]
    ranks = {f"rank {rank}": pid for pid in below if (rank := rank_of(pid)) is not None}
    above = [front, *(pid for pid in below if pid not in ranks.values())]
    return {"front": above[0], "mpirun": above[-1]} | ranks


def rank_of(pid: int) -> int | None:
    found = re.search(r"\0OMPI_COMM_WORLD_RANK=(\d+)", Path(f"/proc/{pid}/environ").read_text())
    return int(found[1]) if found else None


def gone_soon(served: Served) -> bool:
    """Also from the view of who started them: a process whose parent does not look is a zombie."""
    until = time.monotonic() + SECONDS
    for child in served.started:
        try:
            child.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return gone(served.processes.values(), max(0, until - time.monotonic()))
