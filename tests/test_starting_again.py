"""When a server is started again, and when not any more."""

from contextlib import contextmanager

import pytest

from mpsplit import starting_again
from mpsplit.errors import LaunchError
from mpsplit.mpirun import Ended
from mpsplit.starting_again import GOOD, TRIES, keep_running

FAILED, NEVER = Ended(2, ready=True), Ended(2, "rank 1 was ended by signal 9 (Killed)")


@pytest.fixture
def world(monkeypatch):
    """Ends to come and how long each ran, pauses that were made, a clock, whether somebody asks."""

    class World:
        ends: list[tuple[Ended | LaunchError, float]] = []
        pauses: list[float] = []
        now = 0.0
        asks_in_pause = False

        def start(self) -> Ended:
            ended, seconds = self.ends.pop(0)
            self.now += seconds
            if isinstance(ended, LaunchError):
                raise ended
            return ended

        def wait(self, seconds: float) -> bool:
            self.pauses.append(seconds)
            return self.asks_in_pause

        @contextmanager
        def asked_to_end(self):
            yield self

        def monotonic(self) -> float:
            return self.now

    world = World()
    world.pauses = []
    monkeypatch.setattr(starting_again, "asked_to_end", world.asked_to_end)
    monkeypatch.setattr(starting_again, "time", world)
    return world


def test_pauses_grow_and_begin_anew_after_a_good_run(world, capsys):
    world.ends = [(FAILED, 1.0)] * 8 + [(FAILED, GOOD + 1), (FAILED, 1.0), (Ended(0), 5.0)]
    assert keep_running(world.start) == 0
    assert world.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "mpsplit: it ended with 2, after 1 s; it is started again in 1 s" and len(said) == 10


def test_what_never_gets_ready_is_given_up(world):
    world.ends = [(NEVER, 1.0)] * 2 + [(FAILED, 1.0)] + [(NEVER, 1.0)] * TRIES
    with pytest.raises(LaunchError, match=f"ended {TRIES} times before it was ready"):
        keep_running(world.start)
    assert not world.ends and len(world.pauses) == 2 + TRIES


@pytest.mark.parametrize("ended", (Ended(0, ready=True), Ended(143, ready=True, asked=True)))
def test_who_was_asked_to_end_stays_ended(world, ended):
    world.ends = [(ended, 1.0)]
    assert keep_running(world.start) == ended.code and world.pauses == []


def test_a_signal_in_a_pause_ends_it(world):
    world.ends, world.asks_in_pause = [(NEVER, 1.0)], True
    assert keep_running(world.start) == 2 and world.pauses == [1]


def test_what_cannot_be_started_is_tried_again_if_it_once_could_be(world, capsys):
    wrong = LaunchError("Ray found no room for 2 ranks")
    world.ends = [(wrong, 1.0)]
    with pytest.raises(LaunchError, match="no room"):
        keep_running(world.start)
    world.ends = [(FAILED, 1.0), (wrong, 1.0), (Ended(0), 5.0)]
    assert keep_running(world.start) == 0 and world.pauses == [1, 2]
    assert "no room for 2 ranks, after 1 s; it is started again in 2 s" in capsys.readouterr().err
