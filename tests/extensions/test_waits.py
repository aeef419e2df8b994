"""The two rules of extensions/comm/comm.h, over every transport: who does not answer within the
limit is named and ends the group, and a message has the length that is expected."""

import os
import re
import signal
import time

import pytest

from tests.extensions.meeting import HOW, ends, meet

pytestmark = pytest.mark.clock  # who comes late is not waited for either
NAMED = re.compile(r"Error: rank 2 (\(process \d+ on this host\) )?did not answer for 1 s \(seen by rank (\d)")
HEAR = """
def hear(count, source):
    got = np.zeros(count, np.uint8)
    try:
        w.recv(got, source)
    except RunError as wrong:
        print(f"{w.rank}: {wrong}", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("how", HOW)
def test_who_holds_up_all_is_named_not_who_waits_for_it(tmp_path, how):
    """Rank 0 waits for rank 1, which waits for rank 2."""
    program = "w.recv(x, w.rank + 1) if w.rank < 2 else time.sleep(60)\n"
    started, pids = meet(program, how, tmp_path, MPSPLIT_TIMEOUT="1")
    told = ends(started[:2])
    for wrong in (wrong for _, wrong in told):
        assert NAMED.search(wrong) and "did not answer" not in NAMED.sub("", wrong), told
    for child in started[2:]:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", HOW)
def test_a_rank_says_why_it_ends(tmp_path, how):
    """Also to one that waits for another, and before it is gone. In one line, in ASCII."""
    words = "out\nof l\xfcck " * 100
    program = f"w.recv(x, 1 - w.rank) if w.rank < 2 else (w.last_words({words!r}), time.sleep(60))\n"
    started, _ = meet(program, how, tmp_path, MPSPLIT_TIMEOUT="9")
    told = ends(started[:2])
    for wrong in (wrong for _, wrong in told):
        (words,) = {*re.findall(r"Error: rank 2 (?:\(process \d+ on this host\) )?ended: (.*)", wrong)}
        assert re.fullmatch(r"(out of l\?+ck ?){20,}.*", words) and len(words) == 400, told
    for child in started[2:]:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("how", ("gloo alone", "gloo+shm", "mpirun mpi alone", "mpirun mpi4py"))
def test_a_message_of_another_length_is_refused(tmp_path, how):
    """Two that are short, a short one for a long one, and two that are long."""
    program = HEAR + (
        "y = np.zeros(200000, np.uint8)\n"
        "if w.rank == 0: hear(64, 1), hear(100000, 2)\n"
        "if w.rank == 1: w.send(y[:128], 0), hear(100000, 2)\n"
        "if w.rank == 2: w.send(y[:32], 0), w.send(y, 1)\n"
    )
    started, _ = meet(program, how, tmp_path, MPSPLIT_TIMEOUT="1")
    told = "".join(wrong for _, wrong in ends(started))
    for rank, peer, sent, expected in ((0, 1, 128, 64), (0, 2, 32, 100000), (1, 2, 200000, 100000)):
        words = f"{rank}: rank {peer} sent {sent} bytes where rank {rank} expected {expected}; they are not in the same"
        assert words in told, told


@pytest.mark.parametrize("stopped", ([1], [0, 1, 2]))
def test_a_stop_costs_nothing_but_time(tmp_path, stopped):
    """One rank for less than the limit; all of them for longer, and none blames another for it."""
    program = "for _ in range(400): w.all_reduce(x), time.sleep(0.002)\nprint('through')\n"
    started, pids = meet(program, "gloo+shm", tmp_path, MPSPLIT_TIMEOUT="1")
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for rank in stopped:
            os.kill(pids[rank], number)
        time.sleep((0.5 if len(stopped) == 1 else 1.5) * (number == signal.SIGSTOP))
    assert ends(started) == [("through\n", "")] * 3
