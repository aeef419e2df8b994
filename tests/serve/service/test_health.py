"""What /health says of a loop: pure functions of ages and loads."""

import pytest

from mpsplit.runtime.loop.loop_protocol import LoopLoad
from mpsplit.runtime.loop.pulse import LoopHealth, RankSign
from mpsplit.serve.service.health import Health


def health(age: float, usual: float = 0.01, limit: float = 30, running: int = 1, waiting: int = 0, ending=False):
    signs = (RankSign(0, age, 1), RankSign(1, age, None))
    return Health(LoopHealth(age, usual, limit, signs), LoopLoad(running, waiting, 0, 0, 9, 32), 4, ending, 5.0)


@pytest.mark.parametrize(
    "age, usual, state",
    [(4.9, 0.01, "ok"), (5.1, 0.01, "stale"), (11.9, 4.0, "ok"), (12.1, 4.0, "stale")],
)
def test_a_step_is_stale_where_others_were_shorter(age, usual, state):
    assert health(age, usual).state == state


@pytest.mark.parametrize("limit, lives", [(30, 36), (0, 36), (100, 106)])
def test_it_lives_as_long_as_a_rank_may_take(limit, lives):
    assert health(lives - 2, limit=limit).lives and not health(lives, limit=limit).lives


def test_states():
    assert health(0.1, waiting=4).state == "full" and health(9, waiting=4, ending=True).state == "ending"


def test_json():
    ranks = [{"rank": 0, "state": "waits for rank 1", "age_s": 6}, {"rank": 1, "state": "silent", "age_s": 6}]
    assert health(6).to_json() == {"status": "stale", "step_age_s": 6, "running": 1, "waiting": 0, "ranks": ranks}
    assert health(0.1, running=0).to_json()["step_age_s"] is None
