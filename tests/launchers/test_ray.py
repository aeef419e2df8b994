"""Ranks under Ray: two `ray start` of one address stand for two machines.

The cluster is begun once, and ended by the numbers of its processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import httpx
import numpy as np
import pytest

from mpsplit.leash import leashed
from mpsplit.package.manifest import Manifest
from mpsplit.plan.placed_plan import PLAN, Placed
from tests.missing import need
from tests.models import EXAMPLE
from tests.running import CLEAN, MPSPLIT, completed, gone, mpsplit

pytestmark = [pytest.mark.most(1), pytest.mark.seconds(240)]
MACHINES = ("board-1", "board-2")
MEMORY = 1536 << 20  # bytes of each, as Ray may assign them
RAY = ["--launcher", "ray"]
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Japan?"}], "temperature": 0}


def processes(**environment: str) -> dict[int, int]:
    """By rank, the processes that were started with these variables."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = dict(word.split("=", 1) for word in (folder / "environ").read_text().split("\0") if "=" in word)
        except (OSError, UnicodeDecodeError):
            continue
        if all(words.get(name) == value for name, value in environment.items()) and "RANK" in words:
            line = (folder / "cmdline").read_text()
            if "template_sandbox" not in line and "\0mpsplit\0" in line:
                found[int(words["RANK"])] = int(folder.name)
    return found


def parent(process: int) -> int:
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1])


def said(cluster, *arguments) -> str:
    done = completed(*arguments, env=cluster, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(true, seconds: float, what: str):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def cluster():
    """The environment of who uses it."""
    need("ray", "gloo", "the communicator")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets allow no long path
    # a token of its own, whatever other clusters of this machine have
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    environment = CLEAN | token | {"RAY_USAGE_STATS_ENABLED": "0"}
    started = []
    try:
        for name in MACHINES:
            head = name == MACHINES[0]
            where = (
                ["--head", "--port", str(port), "--temp-dir", folder] if head else ["--address", f"127.0.0.1:{port}"]
            )
            command = [
                Path(sys.executable).with_name("ray"), "start", "--block", *where,
                "--node-ip-address", "127.0.0.1", "--node-name", name, "--resources", json.dumps({name: 1}),
                "--num-cpus", "1", "--memory", str(MEMORY), "--object-store-memory", str(80 << 20),
                *(["--include-dashboard", "false"] if head else []),
            ]  # fmt: skip
            with open(f"{folder}/{name}.log", "w") as log:
                both = dict(stdout=log, stderr=log, env=environment)
                started.append(leashed(list(map(str, command)), family=True, **both))
            if head:
                until(lambda: answers(port), 30, "a head of the cluster")
        yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        for process in started:
            process.terminate()  # it ends what it started
        for process in started:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def package(package_of):
    return package_of(EXAMPLE, 2, 1)


def test_the_nodes_as_a_cluster_for_plans(cluster, tmp_path):
    plan = tmp_path / "plan.json"

    def planned():
        return completed("plan", EXAMPLE, "--cluster", "ray", "--tensor", 2, "--out", plan, env=cluster)

    done = until(lambda: (found := planned()).returncode == 0 and found, 60, "two nodes")  # the second may be late
    assert "ms a token on 1 machine" in done.stdout
    devices = json.loads(plan.read_text())["cluster"]["devices"]
    assert [(d["name"], d["threads"], d["memory_bytes"]) for d in devices] == [(name, 1, MEMORY) for name in MACHINES]


def test_a_package_is_made_where_the_plan_says(cluster, package, tmp_path):
    """The same files as without Ray."""
    plan, made = tmp_path / "plan.json", tmp_path / "made"
    said(cluster, "plan", EXAMPLE, "--cluster", "ray", "--tensor", 2, "--out", plan)
    said(cluster, "partition", EXAMPLE, "--plan", plan, "--out", made, *RAY)
    said(cluster, "convert", made, *RAY)
    assert Manifest.load(made).files == Manifest.load(package).files
    assert [device.host for device in Placed.load(made / PLAN).cluster.devices] == list(MACHINES)
    done = completed("run", made, "--prompt", "What is 57+86?", *RAY, env=cluster)
    assert done.stdout.endswith("The answer is 143.\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and "tok/s" in done.stderr


@pytest.mark.thorough
def test_stages(cluster, tmp_path):
    made, given = tmp_path / "made", tmp_path / "x.npz"
    np.savez(given, x=np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32))
    unet = "tests.export.stages.factories:unet"
    said(cluster, "partition", unet, "--stages", "down,deep,last", "--ranks", 2, "--out", made, *RAY)
    said(cluster, "convert", made, *RAY)
    assert said(cluster, "run", made, "--tensor", given, *RAY) == mpsplit("run", made, "--tensor", given)


@pytest.mark.parametrize("victim", ("rank", "actor"))
def test_who_is_killed_ends_the_group(cluster, package, victim):
    mine = {"MPSPLIT_TEST": uuid.uuid4().hex}
    long = ["--ignore-eos", "--max-new-tokens", "400", "--seed", "1"]
    command = list(map(str, [*MPSPLIT, "run", package, "--prompt", "A", *long, *RAY]))
    both = subprocess.PIPE
    child = subprocess.Popen(command, stdout=both, stderr=both, text=True, env=cluster | mine)
    try:
        child.stdout.read(1)  # it answers
        ranks = processes(**mine)
        assert set(ranks) == {0, 1}
        os.kill(ranks[1] if victim == "rank" else parent(ranks[1]), signal.SIGKILL)
        _, said = child.communicate(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 2
    assert len(said.splitlines()) == 1 and re.match(r"mpsplit: rank [01]\b.*", said), said
    assert gone(ranks.values(), 5)


def test_a_server_is_started_again(cluster, package):
    """A killed actor is a rank that failed."""
    mine = {"MPSPLIT_TEST": uuid.uuid4().hex}
    command = [*MPSPLIT, "serve", package, "--port", "0", "--model-name", "vicuna", "--restart", *RAY]
    both = subprocess.PIPE
    child = subprocess.Popen(list(map(str, command)), stdout=both, stderr=both, text=True, env=cluster | mine)
    try:
        for again in (False, True):
            found = re.match(r"vicuna at (http://127.0.0.1:\d+), over 2 ranks", child.stdout.readline())
            assert found
            ranks = processes(**mine)
            if not again:
                os.kill(parent(ranks[1]), signal.SIGKILL)
        reply = httpx.post(f"{found[1]}/v1/chat/completions", json=QUESTION, timeout=60).json()
        assert reply["choices"][0]["message"]["content"].strip() == "The capital of Japan is Tokyo."
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 0, said
    assert "it is started again in 1 s" in said
    assert gone(ranks.values(), 5)


def test_what_ends_when_the_command_is_killed(cluster, package):
    mine = {"MPSPLIT_TEST": uuid.uuid4().hex}
    command = [*MPSPLIT, "serve", package, "--port", "0", *RAY]
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, env=cluster | mine)
    child.stdout.readline()
    ranks = processes(**mine)
    child.kill()
    child.communicate()
    assert set(ranks) == {0, 1} and gone(ranks.values(), 20)


@pytest.mark.parametrize(
    "options, why",
    [
        (["--threads", 64], "rank 0 needs 64 CPUs and "),
        (["--hostfile", "hosts"], "--hostfile hosts is for mpirun"),
    ],
)
def test_refused(cluster, package, options, why):
    done = completed("run", package, "--prompt", "A", *RAY, *options, env=cluster)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and why in done.stderr, done.stderr


def test_no_cluster_there():
    """Only `plan` asks for one that is there; what starts ranks begins one for itself."""
    need("ray")
    done = completed("plan", EXAMPLE, "--cluster", "ray", env=CLEAN | {"RAY_ADDRESS": "127.0.0.1:1"})
    assert done.returncode == 2 and "there is no Ray cluster to join at 127.0.0.1:1" in done.stderr, done.stderr
