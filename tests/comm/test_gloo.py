"""gloo with pygloo's face: its example, and what two ranks say to each other in it."""

import doctest

import numpy as np
import pytest

from mpsplit.comm import gloo
from tests.missing import need
from tests.running import start_rank

need("gloo", module=True)

TALK = """
import sys, numpy as np
from mpsplit.comm import gloo
rank = int(sys.argv[1])
context = gloo.Context(rank, 2)
context.connect(sys.argv[2])
x = np.full(4, rank, np.int64)
gloo.broadcast(context, x, 1)
assert (x == 1).all()
gloo.send(context, x, 1) if rank == 0 else gloo.recv(context, x, 0)
gloo.all_reduce(context, x)
gloo.barrier(context)
gathered = gloo.all_gather(context, np.full((2, 1), context.rank, np.float32))
assert gathered.tolist() == [[r for r in range(context.size)]] * 2
print(x.tolist())
"""


def test_the_example_for_scripts_that_used_pygloo():
    done = doctest.testmod(gloo)
    assert (done.failed, done.attempted > 0) == (0, True)


def test_scripts_that_used_pygloo(tmp_path):
    ranks = [start_rank(TALK, str(r), str(tmp_path)) for r in range(2)]
    for rank in ranks:
        out, wrong = rank.communicate(timeout=30)
        assert out == "[2, 2, 2, 2]\n", wrong


def test_who_is_not_connected_is_told_so():
    with pytest.raises(AssertionError, match="call connect.store. before the first message"):
        gloo.all_reduce(gloo.Context(rank=0, size=2), np.zeros(1))
