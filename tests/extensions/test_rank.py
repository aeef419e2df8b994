"""Ranks without Python: extensions/rank follows Python's lead, over an engine that is the same
formula in both."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.mpirun import OPEN_MPI, find_mpirun
from mpsplit.native import cpp
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.loop.orders import BadOrder, Order
from mpsplit.runtime.loop.verbs import Verb
from tests.extensions.builds import build
from tests.extensions.formula import Formula, answers
from tests.extensions.scripts import follow_script
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


STEP, PLACED = Order(Verb.STEP, 0, 0, 1, 3, 5), [(Order(Verb.PLACE, 0, 0, 1), ())]
CHARS = b"a" * 128 + b"0" * 32


def kept(first=0, last=9, until=9, identity=CHARS, folder=b"sessions/x"):
    data = struct.pack("=3q160s", first, last, until, identity) + folder
    return np.frombuffer(data + bytes(8 - len(data) % 8), np.int64)


def batch(*parts, tokens):
    """Of (slot, position, length, wanted, likely, changed, temperature)."""
    return np.frombuffer(
        b"".join(struct.pack("=6qd", *part) for part in parts) + struct.pack(f"={len(tokens)}q", *tokens), np.int64
    )


PART = (0, 0, 2, 3, -1, 0, 1.0)
BAD = [
    (
        "a count below 1",
        Order(Verb.STEP, 0, 0, -1, 3, 5),
        (),
        "(step: slot 0, position 0, count -1, wanted 3, token 5) of rank 0: it brings 1 to 16777216 numbers",
    ),
    ("a count without end", Order(Verb.MASK, 0, 0, 2**62), (), "it brings 1 to 16777216 numbers"),
    ("a slot without pages", STEP._replace(slot=7), (), "slot 7 has 0 pages, too few for 1 positions"),
    ("more positions than pages", STEP._replace(position=32), (), "slot 0 has 1 pages, too few for 33 positions"),
    ("a page below 0", Order(Verb.FORGET, count=1, token=-1), (), "page -1 is not from 0 to 2147483647"),
    ("a token below 0", STEP._replace(token=-(2**63)), (), "token -9223372036854775808 is not from 0 to 2147483647"),
    ("nothing that can be wanted", STEP._replace(wanted=-4103), (), "wanted -4103 is not from -4102 to 2147483647"),
    ("no cells", STEP._replace(wanted=-6, temperature=1.0), (), "it wants no cells"),
    ("cold cells", STEP._replace(wanted=-7), (), "temperature 0.000000 is none for -7"),
    ("a cold block", STEP._replace(wanted=-2), (), "temperature 0.000000 is none for -2"),
    (
        "more questions than numbers",
        Order(Verb.BATCH, 0, 3, 9),
        batch(PART, tokens=(1, 2)),
        "9 numbers are not 3 questions",
    ),
    ("no questions", Order(Verb.BATCH, 0, 0, 9), batch(PART, tokens=(1, 2)), "9 numbers are not 0 questions"),
    (
        "fewer tokens than parts",
        Order(Verb.BATCH, 0, 1, 8),
        batch(PART, tokens=(1,)),
        "1 tokens are not the 2 of its parts",
    ),
    (
        "a mask that nobody told",
        Order(Verb.BATCH, 0, 1, 9),
        batch((0, 0, 2, 3, -1, 2, 1.0), tokens=(1, 2)),
        "slot 0 has no mask",
    ),
    ("a part that was none", Order(Verb.MORE, 0, 0, 4, -5), (), "the last step had 0 parts, none is part 0"),
    ("a part below 0", Order(Verb.MORE, 0, -1, 4, -5), (), "the last step had 0 parts, none is part -1"),
    ("a page that does not follow", Order(Verb.PLACE, 0, 5, 1), (), "page 5 does not follow the 1 of slot 0"),
    ("a cache that nobody knows", Order(Verb.RESERVE, 0, 0, 8, 0, -1), (), "token -1 is not from 0 to 2"),
    ("half a tilt", Order(Verb.TILT, 0, 1, 2), np.zeros(2, np.int64), "2 numbers are no three of each token"),
    ("a tilt that goes on", Order(Verb.TILT, 0, 0, 3), np.zeros(3, np.int64), "slot 0 has no tilt"),
    ("a folder above", Order(Verb.SAVE, 0, 0, 25), kept(folder=b"x/../../y"), "its folder leaves the package"),
    ("a folder elsewhere", Order(Verb.LOAD, 0, 0, 24), kept(folder=b"/etc"), "its folder leaves the package"),
    (
        "a save that is a way",
        Order(Verb.SAVE, 0, 0, 25),
        kept(identity=b"a" * 128 + b"/../" * 8),
        "a save has no name of letters and digits",
    ),
    ("a segment without a folder", Order(Verb.SAVE, 0, 0, 23), kept()[:23], "23 numbers are no segment and its folder"),
    (
        "a segment that ends first",
        Order(Verb.SAVE, 0, 0, 25),
        kept(first=64, last=9),
        "last 9 is not from 65 to 2147483647",
    ),
    (
        "more saves than names",
        Order(Verb.SWEEP, 0, 1, 2),
        np.zeros(2, np.int64),
        "2 numbers are not 1 saves and a folder",
    ),
    (
        "an order that nobody knows",
        99,
        (),
        "rank 0 gave order 99, which rank 1 does not know; install the same mpsplit",
    ),
]


@pytest.mark.parametrize("order, numbers, message", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_an_order_that_means_nothing_is_refused_alike(follower, tmp_path, order, numbers, message):
    """By ranks with Python and without: with the rank, the order, and why."""
    script = b""
    for each, brings in [*PLACED, (order if isinstance(order, Order) else Order(order), numbers)]:
        script += each.pack().tobytes() + np.asarray(brings, np.int64).tobytes()
    (tmp_path / "orders").write_bytes(script)
    with pytest.raises(BadOrder) as wrong:
        follow_script(script)
    told = str(wrong.value)
    assert message in told and ("99" in told or told.startswith(f"rank 1 cannot obey order {order.verb.value} ("))
    done = subprocess.run(
        [follower, "0", "1", tmp_path / "orders"], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (2, told + "\n")


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
