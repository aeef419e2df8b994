"""When one rank dies, over every transport: the others end within ten seconds, name it, and leave
nothing behind."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.extensions.meeting import HOW, LIMIT, SIZE, ends, meet
from tests.running import gone

STREAM = "while True: w.all_reduce(x)\n"


def segments(pids: list[int]) -> list[Path]:
    """The files in /dev/shm that these processes have mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return [Path(name) for name in set(re.findall(r"/dev/shm/\S+", maps))]


@pytest.mark.parametrize("how, victim", [(how, r) for how in HOW for r in ((1,) if HOW[how][0] else range(SIZE))])
def test_a_killed_rank_is_named_and_leaves_nothing(tmp_path, how, victim):
    started, pids = meet(STREAM, how, tmp_path)
    time.sleep(0.1 + 0.1 * victim)
    mapped = segments(pids)
    os.kill(pids[victim], signal.SIGKILL)
    told = [wrong for _, wrong in ends(started)]
    survivors = told if HOW[how][0] else told[:victim] + told[victim + 1 :]
    for text in survivors:
        assert f"rank {victim} " in text, told
    assert gone(pids)
    assert not [path for path in mapped if path.exists()]


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm"))
def test_a_rank_that_waits_for_another_learns_of_it_too(tmp_path, how):
    program = "w.recv(x, 2) if w.rank == 0 else time.sleep(60)\n"
    started, pids = meet(program, how, tmp_path)
    time.sleep(0.3)
    os.kill(pids[1], signal.SIGKILL)
    assert "rank 1 has gone (seen by rank 0" in ends(started[:1])[0][1]
    for child in started[1:]:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm"))
def test_the_first_to_fail_is_named_not_the_one_waited_for(tmp_path, how):
    program = 'w.recv(x, w.rank + 1) if w.rank < 2 else sys.exit("out of luck")\n'
    told = [wrong for _, wrong in ends(meet(program, how, tmp_path)[0])]
    assert "out of luck" in told[2]
    assert all(re.search("Error: rank 2 .*has (gone|died)", text) for text in told[:2]), told


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm"))
def test_a_rank_that_ends_in_good_order_is_not_missed(tmp_path, how):
    program = (
        "pair = w.comm.group([0, 1])\n"
        "if w.rank == 2: sys.exit()\n"
        "for turn in range(4):\n"
        "    time.sleep(0.5 * (turn % 2 == w.rank))\n"
        "    pair.all_reduce(x)\n"
    )
    started, _ = meet(program, how, tmp_path)
    assert ends(started) == [("", "")] * SIZE
    assert [child.returncode for child in started] == [0] * SIZE


@pytest.mark.parametrize("count", (1, 1 << 20))
def test_what_a_rank_sent_before_it_ended_arrives(tmp_path, count):
    program = (
        f"x = np.zeros({count})\n"
        "if w.rank == 1: w.send(x, 0)\n"
        "if w.rank == 0: time.sleep(0.5), w.recv(x, 1), print('came')\n"
    )
    started, _ = meet(program, "gloo alone", tmp_path)
    assert started[0].communicate(timeout=LIMIT) == ("came\n", "")
    ends(started[1:])
