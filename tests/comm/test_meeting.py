"""Ranks that meet in a folder: whatever killed ones left there, they meet, or hear who is
missing."""

import os
import random
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.missing import need
from tests.running import ROOT, rank_environment, start_rank

need("gloo", module=True)

MEETS = """
import sys, numpy as np
from mpsplit.comm import gloo
context = gloo.Context(int(sys.argv[1]), int(sys.argv[2]))
print("begun", flush=True)
context.connect(sys.argv[3], shared=False)
x = np.full(1, context.rank + 1)
gloo.all_reduce(context, x)
print(x.tolist(), flush=True)
"""
EXAMPLE = ROOT / "examples" / "gloo_ring.py"
ROUNDS = int(os.environ.get("MPSPLIT_TEST_KILLS", "3"))


def start(rank: int, size: int, folder: Path, seconds: float = 60) -> subprocess.Popen:
    return start_rank(MEETS, str(rank), str(size), str(folder), MPSPLIT_TIMEOUT=str(seconds))


def meet(folder: Path, size: int = 2) -> None:
    ranks = [start(rank, size, folder) for rank in range(size)]
    said = [rank.communicate(timeout=60) for rank in ranks]
    assert [out.splitlines()[-1] for out, _ in said] == [f"[{size * (size + 1) // 2}]"] * size, said
    assert list(folder.iterdir()) == []


def kill(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def left(folder: Path, name: str) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(name)]


@pytest.mark.parametrize("killed", [[0], [1], [2], [0, 1]])
def test_a_folder_whose_ranks_were_killed_is_usable_at_once(tmp_path, killed):
    """They wait for a rank that never comes, and are killed there."""
    ranks = [start(rank, 3, tmp_path) for rank in killed]
    while not all(left(tmp_path, "hello-" + str(rank) if rank else "meeting") for rank in killed):
        assert all(rank.poll() is None for rank in ranks)
    for rank in ranks:
        kill(rank)
    assert list(tmp_path.iterdir())
    for name in ("meeting.1f", "hello-1.2f"):  # of one that was killed while it wrote
        (tmp_path / name).touch()
    meet(tmp_path, 3)


def test_one_that_is_killed_and_started_again_meets_those_who_wait(tmp_path):
    others = [start(0, 3, tmp_path)]
    for number in (1, 1, 0):
        while not left(tmp_path, "meeting"):
            assert others[0].poll() is None
        again = start(number, 3, tmp_path)
        while not left(tmp_path, f"hello-{number}") and number:
            assert again.poll() is None
        kill(again if number else others.pop(0))
        others += [] if number else [again]
    others += [start(rank, 3, tmp_path) for rank in (1, 2)]
    assert [rank.communicate(timeout=60)[0].splitlines()[-1] for rank in others] == ["[6]"] * 3


@pytest.mark.seconds(200)
def test_killed_at_random_moments(tmp_path):
    """Some meet before, some leave their files; the next two meet all the same."""
    chance = random.Random(1)
    for _ in range(ROUNDS):
        ranks = [start(rank, 2, tmp_path) for rank in (0, 1)]
        victim = chance.choice(ranks)
        assert victim.stdout.readline() == "begun\n"
        with suppress(subprocess.TimeoutExpired):
            victim.wait(chance.uniform(0, 0.06))
        for rank in (victim, *ranks):
            if rank.poll() is None:
                kill(rank)
        meet(tmp_path)


@pytest.mark.parametrize(
    "rank, size, other, said",
    [
        (0, 2, None, "rank 0 waited 1 s in FOLDER for rank 1, which did not come; start all 2 ranks"),
        (1, 2, None, "rank 1 waited 1 s in FOLDER for rank 0, which did not come; start all 2 ranks"),
        (0, 3, (1, 3), "rank 0 waited 1 s in FOLDER for rank 2, which did not come"),
        (0, 2, (1, 3), r"for rank 1 .started for 3 ranks., which did not come"),
        (1, 3, (0, 2), r"for rank 0 .started for 2 ranks., which did not come"),
        (2, 2, None, "rank 2 is none of 2 ranks; they count from 0"),
    ],
)
def test_the_example_says_who_is_missing(tmp_path, rank, size, other, said):
    friend = start(*other, tmp_path, 30) if other else None
    if friend:
        while not list(tmp_path.iterdir()):
            assert friend.poll() is None
    done = subprocess.run(
        [sys.executable, EXAMPLE, str(rank), str(size), str(tmp_path)],
        env=rank_environment(MPSPLIT_TIMEOUT="1"), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if friend:
        kill(friend)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(said.replace("FOLDER", re.escape(str(tmp_path))), done.stderr), done.stderr
    if not other:
        assert list(tmp_path.iterdir()) == []
