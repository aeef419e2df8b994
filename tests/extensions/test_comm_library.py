"""The C++ communicator over every transport, on any number of ranks.

Sums are compared with a tree in numpy, bit for bit, so that equal to it means equal over all
transports.
"""

import time

import numpy as np
import pytest

from mpsplit.native import cpp
from tests.extensions.trees import add_bf16, add_f16, add_i8, to_bf16, tree_sum
from tests.missing import need

_comm = cpp.load()
need("the communicator", module=True)

pytestmark = pytest.mark.mpi
SHARED = {"mpi": False, "mpi+shm": True, "gloo": False, "gloo+shm": True}
COUNTS = (0, 1, 31, 2049, 16385, 262147)  # elements; the last ones are long sums
MB = 1 << 20


@pytest.fixture(scope="module", params=SHARED)
def comm(request):
    name, shared = request.param.split("+")[0], SHARED[request.param]
    need("mpi", *({name} - {"mpi"}))
    made = _comm.mpi(shared) if name == "mpi" else _comm.gloo_over(_comm.mpi(False), shared=shared)
    assert made.transport == (request.param if made.size > 1 else name)
    return made


def numbers(rank: int, count: int, dtype: str) -> np.ndarray:
    draw = np.random.default_rng(1000 * count + rank)
    if dtype == "bf16":
        return to_bf16(draw.standard_normal(count, np.float32))
    if dtype.startswith("f"):
        return draw.standard_normal(count, np.float32).astype(dtype)
    high = np.iinfo(dtype).max
    return draw.integers(-high, high, count, dtype)


TYPES = {"f4": np.add, "f2": add_f16, "bf16": add_bf16, "i1": add_i8, "i4": np.add, "i8": np.add}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_sums_have_the_bits_of_the_tree(comm, dtype, count):
    x = numbers(comm.rank, count, dtype)
    with np.errstate(over="ignore"):
        expected = tree_sum([numbers(r, count, dtype) for r in range(comm.size)], TYPES[dtype])
    comm.all_reduce(x, type="bf16" if dtype == "bf16" else "")
    assert x.tobytes() == expected.tobytes()


def test_a_sum_does_not_depend_on_the_length_of_the_array(comm):
    long = numbers(comm.rank, 100_003, "f4")
    short = long[70_000:70_500].copy()
    comm.all_reduce(long)
    comm.all_reduce(short)
    assert long[70_000:70_500].tobytes() == short.tobytes()


@pytest.mark.parametrize("count", COUNTS)
def test_gathered_blocks_are_in_the_order_of_the_ranks(comm, count):
    out = np.empty((comm.size, count), np.float32)
    comm.all_gather(np.full(count, comm.rank, np.float32), out)
    assert (out == np.arange(comm.size)[:, None]).all()


@pytest.mark.parametrize("count", COUNTS)
def test_broadcast_from_every_root(comm, count):
    for root in range(comm.size):
        x = np.arange(count) + (comm.rank + 1) * 7
        comm.broadcast(x, root)
        assert np.array_equal(x, np.arange(count) + (root + 1) * 7)


@pytest.mark.parametrize("count", COUNTS)
def test_send_and_recv_around_a_ring(comm, count):
    rank, size = comm.rank, comm.size
    if size == 1:
        with pytest.raises(ValueError, match="rank 0 has no peer 0 in a group of 1"):
            comm.send(np.zeros(count), 0)
        return
    mine, got = np.full(count, rank, np.float64), np.empty(count)
    right, left = (rank + 1) % size, (rank - 1) % size
    if rank % 2 == 0:
        comm.send(mine, right)
    comm.recv(got, left)
    if rank % 2 == 1:
        comm.send(mine, right)
    assert (got == left).all()


@pytest.mark.parametrize("bytes_out", (MB, 3, 0))
def test_crossed_messages_do_not_wait_for_each_other(comm, bytes_out):
    rank, size = comm.rank, comm.size
    if size == 1:
        return
    for apart in range(1, size):
        to, source = (rank + apart) % size, (rank - apart) % size
        out, got = np.full(bytes_out, rank, np.uint8), np.empty(bytes_out, np.uint8)
        comm.exchange(out, to, got, source)
        assert (got == source).all()


def test_groups_of_groups(comm):
    rank, size = comm.rank, comm.size
    others = [r for r in reversed(range(size)) if r % 2 == rank % 2]
    group = comm.group(others)
    assert (group.rank, group.size) == (others.index(rank), len(others))
    x = np.full(5, rank, np.int32)
    group.all_reduce(x)
    assert (x == sum(others)).all()
    alone = group.group([group.rank])
    alone.all_reduce(x)
    assert (alone.size, alone.bytes, x[0]) == (1, 0, sum(others))
    assert group.group([r for r in range(group.size) if r != group.rank]) is None
    with pytest.raises(ValueError, match=f"no rank {size} in a group of {size}"):
        comm.group([size])


def test_nobody_leaves_a_barrier_before_all_have_come(comm, shared_folder, request):
    """Each says that it comes; who has left looks whether all have said so."""
    for i in range(20):
        come = [shared_folder / f"{request.node.name}-{i}-{rank}" for rank in range(comm.size)]
        if comm.rank == i % comm.size:
            time.sleep(0.005)  # late, so that who did not wait for it would be seen
        come[comm.rank].touch()
        comm.barrier()
        assert all(path.exists() for path in come)


def test_traffic_is_counted(comm):
    group = comm.group(list(range(comm.size)))
    x = np.zeros(10, np.float32)
    group.all_reduce(x)
    group.all_gather(x, np.empty((comm.size, 10), np.float32))
    group.broadcast(x, 0)
    talks = comm.size > 1
    assert group.bytes == 40 * talks + 40 * talks + 40 * (talks and comm.rank == 0)
    assert group.calls == 3 and 0 < group.seconds < 60


def test_wrong_arrays_are_refused(comm):
    with pytest.raises(ValueError, match="does not lie in memory in one piece .stride 2 on axis 0.*ascontiguousarray"):
        comm.all_reduce(np.zeros(8, np.float32)[::2])
    with pytest.raises(ValueError, match="one piece"):
        comm.send(np.zeros((4, 4)).T, 0)
    with pytest.raises(ValueError, match="this array is none of them"):
        comm.all_reduce(np.zeros(8))
    with pytest.raises(ValueError, match=f"has no peer {comm.size}"):
        comm.broadcast(np.zeros(1), comm.size)
    constant = np.zeros(8, np.float32)
    constant.flags.writeable = False
    with pytest.raises(TypeError, match="incompatible function arguments"):
        comm.all_reduce(constant)


def test_null_has_the_right_shapes():
    null = _comm.null(1, 3)
    x = np.arange(4, dtype=np.float32)
    null.all_reduce(x)
    null.broadcast(x, 2)
    null.send(x, 0)
    null.recv(x, 2)
    null.barrier()
    out = np.empty((3, 4), np.float32)
    null.all_gather(x, out)
    assert np.array_equal(out, np.tile(np.arange(4), (3, 1)))
    pair = null.group([1, 2])
    assert (pair.rank, pair.size, pair.transport, null.bytes) == (0, 2, "null", 0)
    with pytest.raises(ValueError, match="rank 3 of 3"):
        _comm.null(3, 3)
