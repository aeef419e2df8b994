"""Nobody waits for ever, and nobody is left behind: a rank that is stopped, and a kill -9 of any
process of a server over two ranks, while it answers."""

import json
import os
import signal
import socket
import time

import httpx
import pytest

from tests.cases import thorough
from tests.missing import needs
from tests.running import gone
from tests.serve.started_ranks import ASK, gone_soon, processes_below


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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.clock
def test_a_server_is_started_again_after_a_kill(serve):
    """Twice, after pauses that grow: it answers at the same port, and what was kept is used."""
    served = serve("front", "--restart", "--port", str(free_port()))
    front, session = served.started[0], {"session_id": "mine"}
    assert served.answer(**session)["usage"]["mpsplit"]["saved"] is True
    for victim, pause in (("rank 1", 1), ("rank 0", 2)):
        before = served.processes
        os.kill(before[victim], signal.SIGKILL)
        assert front.stdout.readline().startswith(f"vicuna at {served.address}, over 2 ranks")
        assert gone(set(before.values()) - {front.pid}, 0)
        said = front.stderr.readline()
        while "is started again" not in said:
            said = front.stderr.readline()
        assert f"it is started again in {pause} s" in said
        served.processes = processes_below(front.pid)
        usage = served.answer(**session)["usage"]
        assert usage["mpsplit"]["kept"]["hit"] >= usage["prompt_tokens"] - 1, usage
        served.as_before()
    front.terminate()
    assert front.wait(20) == 0 and gone_soon(served) and can_be_listened_at(served.address)
