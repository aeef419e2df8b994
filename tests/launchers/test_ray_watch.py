"""What becomes of a group when one of its ranks ends, over a Ray that is none."""

from __future__ import annotations

import signal
import sys
import threading
from queue import SimpleQueue

import pytest

from mpsplit.launchers import rank_actor, ray_ranks
from mpsplit.mpirun import Ended, killed_text, silent_text
from tests.launchers.fake_ray import FakeRay

IMPORTS = "import os, signal, sys, time; rank = int(os.environ['RANK']); "
WAIT = "time.sleep(60)"
STUBBORN = f"signal.signal(15, signal.SIG_IGN); {WAIT}"
READY = "os.write(2, b'mpsplit: ready\\n')"
SETTLED = 0.5  # seconds


@pytest.fixture
def watched(monkeypatch):
    """program, signals to come -> how its two ranks ended."""
    monkeypatch.setattr(rank_actor, "python_command", lambda program: [sys.executable, "-c", IMPORTS + program])
    monkeypatch.setattr(ray_ranks, "GRACE", 0.5)
    monkeypatch.setattr(ray_ranks, "INSISTENT", 0.5)

    def watched(program: str, *signals: int) -> Ended:
        events = SimpleQueue()
        for number in signals:  # when the ranks have begun
            threading.Timer(SETTLED, events.put, [(0, ray_ranks.ASKED, number)]).start()
        ray = FakeRay(2)
        return ray_ranks._Watch(ray, ray.actors, events).run([program], [{}, {}])

    return watched


def test_a_good_end(watched, capfdbinary):
    assert watched("print('rank', rank); print('seen', rank, file=sys.stderr)") == Ended(0)
    out, wrong = capfdbinary.readouterr()
    assert sorted(out.splitlines()) == [b"rank 0", b"rank 1"] and sorted(wrong.splitlines()) == [b"seen 0", b"seen 1"]


@pytest.mark.parametrize(
    "program, ended",
    [
        (f"sys.exit(3) if rank else {WAIT}", Ended(3, silent_text(1, 3))),
        (f"os.kill(os.getpid(), 9) if rank else {WAIT}", Ended(137, killed_text(1, 9, "Killed"))),
        (f"sys.exit(1) if rank else {WAIT}", Ended(1)),
        (f"(print('mpsplit: rank 1: why', file=sys.stderr), sys.exit(2)) if rank else {WAIT}", Ended(2)),
        (f"{READY}; sys.exit(3) if rank else {WAIT}", Ended(3, silent_text(1, 3), ready=True)),
        (f"(time.sleep({SETTLED}), sys.exit(3)) if rank else 0; {STUBBORN}", Ended(3, silent_text(1, 3))),
    ],
)  # fmt: skip
def test_one_that_fails_ends_all(watched, program, ended):
    assert watched(program) == ended


def test_a_signal_goes_to_all_and_a_second_one_is_the_last(watched):
    assert watched("signal.signal(15, lambda *_: sys.exit(0)); " + WAIT, signal.SIGTERM) == Ended(0, asked=True)
    assert watched(WAIT, signal.SIGTERM) == Ended(128 + signal.SIGTERM, asked=True)
    assert watched(STUBBORN, signal.SIGTERM, signal.SIGTERM) == Ended(128 + signal.SIGKILL, asked=True)
