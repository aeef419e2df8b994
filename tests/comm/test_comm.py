"""The communicator, with expectations as formulas in rank and size. On 1, 2 and 4 ranks."""

import numpy as np
import pytest

from mpsplit.comm import Mpi

pytestmark = pytest.mark.mpi


def test_collectives(world):
    rank, size = world.rank, world.size
    x = np.full((2, 3), rank + 1, np.float32)
    world.all_reduce(x)
    assert (x == size * (size + 1) / 2).all()
    gathered = world.all_gather(np.full((2, 1), rank, np.float32))
    assert np.array_equal(gathered, np.tile(np.arange(size, dtype=np.float32), (2, 1)))
    x = np.full(4, rank, np.int64)
    world.broadcast(x, size - 1)
    assert (x == size - 1).all()
    assert world.exchange(rank * rank) == [r * r for r in range(size)]


def test_send_and_recv_around_a_ring(world):
    rank, size = world.rank, world.size
    if size == 1:
        with pytest.raises(AssertionError, match="send to rank 0 in a group of 1"):
            world.send(np.zeros(1), 0)
        return
    mine, got = np.full(5, rank, np.float32), np.empty(5, np.float32)
    if rank % 2 == 0:
        world.send(mine, (rank + 1) % size)
        world.recv(got, (rank - 1) % size)
    else:
        world.recv(got, (rank - 1) % size)
        world.send(mine, (rank + 1) % size)
    assert (got == (rank - 1) % size).all()


def test_groups_and_counted_bytes(world):
    rank, size = world.rank, world.size
    half = tuple(r for r in range(size) if r // 2 == rank // 2)
    group = world.group(half)
    x = np.full(8, 2.0**rank, np.float32)
    before, seconds = group.bytes_sent, group.seconds
    group.all_reduce(x)
    assert (x == sum(2.0**r for r in half)).all()
    assert group.bytes_sent - before == (32 if len(half) > 1 else 0)
    assert group.seconds >= seconds and (group.seconds > 0) == (len(half) > 1)


def test_telling_and_listening(world):
    world.wait()
    x = np.full(3, 7 if world.rank == 0 else 0)
    if world.rank == 0:
        world.tell(x)
    else:
        world.listen(x)
    assert x.tolist() == [7, 7, 7]


def test_exchange_takes_json_and_gives_it_back(world):
    value = {"rank": world.rank, "texts": ["ä\u0000", None, True, 0.1], "none": {}}
    assert world.exchange(value) == [value | {"rank": rank} for rank in range(world.size)]
    for wrong in ((1, 2), {1: 2}, {"path": object()}, np.float32(1), b"bytes", {1, 2}):
        with pytest.raises(AssertionError, match="is no JSON value"):
            world.exchange(wrong)
    assert world.exchange("x" * 100_000 * (world.rank + 1)) == ["x" * 100_000 * (r + 1) for r in range(world.size)]


def test_mpi4py_exchanges_the_same(world):
    comm = world
    if world.size > 1:
        from mpi4py import MPI

        comm = Mpi.over(MPI.COMM_WORLD.Dup())
    assert comm.exchange(["r" * comm.rank, comm.rank]) == [["r" * rank, rank] for rank in range(comm.size)]
    with pytest.raises(AssertionError, match="is no JSON value"):
        comm.exchange(b"")
