"""Nobody waits for ever, and nobody is left behind: a rank that is stopped, and a kill -9 of any
process of a server over two ranks, while it answers."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from mpsplit.mpirun import OPEN_MPI, PASS_SIGNALS, find_mpirun
from mpsplit.native import cpp
from tests.cases import thorough
from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import CLEAN, MPSPLIT, descendants, gone

SECONDS = 2  # until nothing is left
ASK = {"model": "vicuna", "prompt": "A", "max_tokens": 400, "ignore_eos": True, "stream": True}


@dataclass
class Served:
    """`started` by us; `processes` by name, those of ranks among them."""

    started: list[subprocess.Popen]
    address: str
    processes: dict[str, int]

    def asked(self, **wishes) -> httpx.Response:
        return httpx.post(f"{self.address}/v1/completions", json=ASK | wishes, timeout=60)

    def health(self, of: str = "") -> tuple[int, dict]:
        reply = httpx.get(f"{self.address}/health{of}")
        return reply.status_code, reply.json()


def begun(command: list, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**OPEN_MPI, **PASS_SIGNALS, **CLEAN, **environment},
    )  # fmt: skip


@pytest.fixture
def serve(package_of, tmp_path):
    """how -> a server: by `front`, by `mpirun`, by mpirun with a rank `without Python`, or by
    `nobody`."""
    package, all_started, all_pids = package_of(EXAMPLE, 2, 1), [], []

    def start(how: str, *options: str, **environment: str) -> Served:
        command = [*MPSPLIT, "serve", package, "--port", 0, "--model-name", "vicuna", *options]
        if how == "nobody":
            meet = environment | {"WORLD_SIZE": "2", "MPSPLIT_STORE": str(tmp_path / "meet")}
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
            below = [pid for pid, line in descendants(started[0].pid) if "template_sandbox" not in line]
            ranks = {f"rank {rank}": pid for pid in below if (rank := rank_of(pid)) is not None}
            above = [started[0].pid, *(pid for pid in below if pid not in ranks.values())]
            processes = {"front": above[0], "mpirun": above[-1]} | ranks
        all_pids.extend(processes.values())
        return Served(started, found[1], processes)

    yield start
    for child in all_started:
        child.kill()
        child.communicate()
    assert gone(all_pids, SECONDS)


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


def can_be_listened_at(address: str) -> bool:
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        again.listen()
    return True


KILLED = [
    ("front", "front"),
    ("front", "rank 1"),
    ("nobody", "rank 0"),
    ("without Python", "mpirun"),
    *thorough(
        ("front", "mpirun"), ("front", "rank 0"), ("mpirun", "mpirun"), ("mpirun", "rank 0"), ("mpirun", "rank 1"),
        ("nobody", "rank 1"), ("without Python", "rank 0"), ("without Python", "rank 1"),
    ),
]  # fmt: skip


@needs("gloo")
@needs("mpsplit-rank")
@pytest.mark.clock
@pytest.mark.parametrize("doing", ("busy", *thorough("idle")))
@pytest.mark.parametrize("how, victim", KILLED)
def test_nothing_is_left_after_a_kill(serve, how, victim, doing):
    served = serve(how)
    if doing == "idle":
        os.kill(served.processes[victim], signal.SIGKILL)
        assert gone_soon(served) and can_be_listened_at(served.address)
        return
    with httpx.stream("POST", f"{served.address}/v1/completions", json=ASK, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        os.kill(served.processes[victim], signal.SIGKILL)
        try:
            *_, last = filter(None, lines)
        except httpx.TransportError:  # rank 0 is gone, too
            assert victim != "rank 1"
    if victim == "rank 1":
        told = json.loads(last.removeprefix("data: "))["error"]["message"]
        assert "the answer cannot go on: the ranks stopped: rank 1 (process" in told and "has died" in told
    assert gone_soon(served) and can_be_listened_at(served.address)
    if victim == "rank 1" and how in ("front", "nobody"):  # an mpirun of one's own has more to say
        said = served.started[0].stderr.read()
        assert served.started[0].returncode and said.count("\n") == 1 and "rank 1 " in said, said


@needs("gloo")
@pytest.mark.clock
@pytest.mark.parametrize("transport", ("", "gloo"), ids=("shared memory", "gloo"))
def test_a_stopped_rank_ends_the_group(serve, transport):
    served = serve("front", "--stale-after", "0.5", MPSPLIT_TIMEOUT="3", MPSPLIT_TRANSPORT=transport)
    assert served.health()[1]["ranks"][1]["state"] == "ok" and served.health("/ready")[0] == 200
    with httpx.stream("POST", f"{served.address}/v1/completions", json=ASK, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        with httpx.stream("POST", f"{served.address}/v1/completions", json=ASK, timeout=60) as other:
            next(other.iter_lines())
            os.kill(served.processes["rank 1"], signal.SIGSTOP)
            while served.health()[0] == 200:
                time.sleep(0.05)
        while (now := served.health())[1]["running"] == 2:  # who left has given up the place
            time.sleep(0.05)
        assert now[0] == 503 and now[1]["status"] == "stale" and now[1]["step_age_s"] > 0.5
        assert [rank["state"] for rank in now[1]["ranks"]] in (["silent", "silent"], ["waits for rank 1", "silent"])
        assert served.health("/ready")[0] == 503 and served.health("/live")[0] == 200
        *_, last = filter(None, lines)
    told = json.loads(last.removeprefix("data: "))["error"]["message"]
    assert "rank 1 (process " in told and " on this host) did not answer for 3 s" in told
    assert served.started[0].wait(20) == 2 and "did not answer for 3 s" in served.started[0].stderr.read()
    assert gone_soon(served)


@pytest.mark.clock
def test_two_signals_end_it_though_a_rank_is_stopped(serve):
    served = serve("front")
    with httpx.stream("POST", f"{served.address}/v1/completions", json=ASK, timeout=60) as reply:
        next(reply.iter_lines())
        os.kill(served.processes["rank 1"], signal.SIGSTOP)
        served.started[0].terminate()
        while served.health()[1]["status"] != "ending":
            time.sleep(0.05)
        served.started[0].terminate()
        served.started[0].wait(10)
    assert gone_soon(served)
