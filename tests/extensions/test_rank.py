"""Ranks without Python: extensions/rank follows Python's lead, over an engine that is the same
formula in both."""

import json
import subprocess
import sys

import pytest

from mpsplit.comm import Alone
from mpsplit.mpirun import OPEN_MPI, find_mpirun
from mpsplit.native import cpp
from mpsplit.plan.shards import even_plan
from tests.extensions.builds import build
from tests.extensions.formula import Formula, answers
from tests.missing import need
from tests.models import facts
from tests.running import rank_environment

LEAD = """
import sys
from mpsplit.comm import world
from mpsplit.runtime.choose import sampling
from tests.extensions.formula import Formula, answers
sampling.NUCLEUS = 6  # now and then not enough
print(answers(Formula(world().size), world()))
"""


@pytest.fixture(scope="module")
def follower(build_folder):
    need("gloo", "cmake")
    target = build(build_folder / "rank", "follow_test", f"-DPython_EXECUTABLE={sys.executable}")
    return target / "rank" / "follow_test"


@pytest.mark.seconds(300)
@pytest.mark.parametrize("ranks", (2, 4))
def test_followers_without_python_give_the_same_tokens(follower, tmp_path, ranks):
    heads = [shard.head for shard in even_plan(facts(), ranks, 1).shards]
    meet = dict(WORLD_SIZE=str(ranks), MPSPLIT_STORE=str(tmp_path))
    commands = [[sys.executable, "-c", LEAD], *([follower, str(h.start), str(len(h))] for h in heads[1:])]
    started = [
        subprocess.Popen(
            command,
            env=rank_environment(RANK=str(rank), **meet),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    told = [rank.communicate(timeout=60) for rank in started]
    assert [rank.returncode for rank in started] == [0] * ranks, told
    assert told[0][0] == f"{answers(Formula(1), Alone())}\n"


@pytest.mark.seconds(300)
@pytest.mark.parametrize("meet", ("mpirun", "folder"))
def test_a_package_runs_with_a_worker_without_python(package_of, tmp_path, meet):
    need("mpsplit-rank")
    program = cpp.folder() / "mpsplit-rank"
    package = package_of("llama", 2, 1)
    lead = [sys.executable, "-m", "mpsplit", "run", package, "--prompt-ids", "5,6,7,8,9", "--json", "--chunk", "3"]
    lead += ["--temperature", "0.8", "--top-p", "0.9", "--max-new-tokens", "30"]
    expected = json.loads(
        subprocess.run(lead, env=rank_environment(), capture_output=True, timeout=120, check=True).stdout
    )
    if meet == "mpirun":
        started = [[find_mpirun(), "-np", "1", *lead, ":", "-np", "1", program, package]]
        environments = [rank_environment(**OPEN_MPI)]
    else:
        started = [lead, [program, package, "--threads", "1"]]
        environments = [
            rank_environment(RANK=str(rank), WORLD_SIZE="2", MPSPLIT_STORE=str(tmp_path)) for rank in range(2)
        ]
    ranks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, environment in zip(started, environments, strict=True)
    ]
    told = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), told
    assert json.loads(told[0][0])["token_ids"] == expected["token_ids"]


@pytest.mark.parametrize(
    "environment, message",
    [
        ({}, "mpsplit-rank follows other ranks; start it by `mpirun -np 1 mpsplit run PACKAGE"),
        (dict(RANK="0", WORLD_SIZE="2", MPSPLIT_STORE="x"), "rank 0 leads and needs Python"),
        (dict(RANK="2", WORLD_SIZE="2", MPSPLIT_STORE="x"), "RANK=2 is not among WORLD_SIZE=2"),
        (dict(RANK="x", WORLD_SIZE="2", MPSPLIT_STORE="x"), "RANK=x is no number"),
        (dict(RANK="1", WORLD_SIZE="2", MPSPLIT_STORE="x", MPSPLIT_TRANSPORT="mpi4py"), "is none of mpi, gloo"),
    ],
)
def test_ranks_that_have_nobody_to_follow(follower, environment, message):
    done = subprocess.run(
        [follower, "0", "1"],
        env=rank_environment(**environment),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
