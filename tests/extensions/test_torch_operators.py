"""libmpi_extensions.so: its operators over 1, 2 and 4 ranks, their gradients, and processes that
load it alone.

Gradients are compared with those of the same sums and slices written in plain torch, over the
tensors of all ranks at once.
"""

import subprocess
import sys

import pytest

from mpsplit.mpirun import OPEN_MPI, find_mpirun
from mpsplit.native import cpp
from tests.missing import need
from tests.running import rank_environment

LIBRARY = cpp.torch_library()
need("the torch operators", module=True)

import torch  # noqa: E402

from mpsplit.errors import RunError  # noqa: E402
from mpsplit.export.trace import operators  # noqa: E402

ops = torch.ops.mpi_extensions
# group ids of this file: the ranks in order, in the opposite order, never named
ALL, BACKWARDS, NULL = 10, 11, 12
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int32, torch.int64)
FLOATS = DTYPES[:3]
STRIDES = {
    "in one piece": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "every other": lambda x: x[:, ::2, 1::2],
    "expanded": lambda x: x[:, :1].expand(-1, 3, -1),
    "empty": lambda x: x[:0],
}


@pytest.fixture
def comm(world):
    operators.connect({ALL: range(world.size), BACKWARDS: range(world.size)[::-1]})
    yield world
    operators.connect({ALL: (), BACKWARDS: ()})


def numbers(rank: int, dtype=torch.float32, strides: str = "in one piece") -> torch.Tensor:
    """Small whole numbers, whose sums every type holds exactly."""
    draw = torch.Generator().manual_seed(rank)
    return STRIDES[strides](torch.randint(-8, 9, (4, 5, 6), generator=draw).to(dtype))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


@pytest.mark.mpi
@pytest.mark.parametrize("strides", STRIDES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_stride(comm, dtype, strides):
    rank, size = comm.rank, comm.size
    everybodys = [numbers(r, dtype, strides) for r in range(size)]
    x = everybodys[rank]
    before = x.clone()
    made = {
        "all_reduce": (ops.all_reduce(x, ALL), sum(everybodys[1:], everybodys[0])),
        "all_gather": (ops.all_gather(x, ALL, size), torch.cat(everybodys, -1)),
        "gathered backwards": (ops.all_gather(x, BACKWARDS, size), torch.cat(everybodys[::-1], -1)),
    }
    for root in range(size):
        made[f"broadcast from {root}"] = (ops.broadcast(x, ALL, root), everybodys[root])
    if size > 1:
        made["send"] = (ops.send(x, ALL, (rank + 1) % size), x)
        made["recv"] = (ops.recv(x, ALL, (rank - 1) % size), everybodys[rank - 1])
    for name, (have, expected) in made.items():
        assert same(have, expected), name
        assert have.is_contiguous() and (not x.numel() or have.data_ptr() != x.data_ptr()), name
    assert same(x, before)


PLAIN = {  # (the tensors of all ranks, own rank) -> what the operator returns there
    "all_reduce": lambda xs, rank: sum(xs),
    "all_gather": lambda xs, rank: torch.cat(xs, -1),
    "broadcast": lambda xs, rank: xs[-1],
    "around a ring": lambda xs, rank: xs[rank] + 3 * xs[rank - 1],
}


def around_a_ring(x, comm):
    sent = ops.send(x, ALL, (comm.rank + 1) % comm.size)
    return sent + 3 * ops.recv(sent, ALL, (comm.rank - 1) % comm.size)


REAL = {
    "all_reduce": lambda x, comm: ops.all_reduce(x, ALL),
    "all_gather": lambda x, comm: ops.all_gather(x, ALL, comm.size),
    "broadcast": lambda x, comm: ops.broadcast(x, ALL, comm.size - 1),
    "around a ring": around_a_ring,
}


def loss(y: torch.Tensor, rank: int) -> torch.Tensor:
    """Of one rank; no two ranks, and no two places, weigh alike."""
    weights = torch.arange(1, y.numel() + 1, dtype=y.dtype).reshape(y.shape) / y.numel() + rank
    return (weights * y * y).sum()


@pytest.mark.mpi
@pytest.mark.parametrize("which", REAL)
def test_gradients_flow(comm, which):
    if which == "around a ring" and comm.size == 1:
        return  # one rank has no neighbour
    everybodys = [numbers(r).requires_grad_() for r in range(comm.size)]
    sum(loss(PLAIN[which](everybodys, r), r) for r in range(comm.size)).backward()
    x = numbers(comm.rank).requires_grad_()
    loss(REAL[which](x, comm), comm.rank).backward()
    expected = everybodys[comm.rank].grad
    torch.testing.assert_close(x.grad, torch.zeros_like(x) if expected is None else expected)


@pytest.mark.mpi
def test_gradients_have_gradients(comm):
    x = torch.full((3,), comm.rank + 1.0, requires_grad=True)
    (first,) = torch.autograd.grad((ops.all_reduce(x, ALL) ** 3).sum(), x, create_graph=True)
    total = sum(range(1, comm.size + 1))
    assert same(first, torch.full((3,), 3.0 * total**2 * comm.size))
    (second,) = torch.autograd.grad(first.sum(), x)
    assert same(second, torch.full((3,), 6.0 * total * comm.size**3 / comm.size))


@pytest.mark.mpi
@pytest.mark.parametrize("grad", (False, True))
@pytest.mark.parametrize("which", ("all_reduce", "all_gather", "broadcast"))
def test_opcheck_between_ranks(comm, which, grad):
    arguments = {"all_reduce": (), "all_gather": (comm.size,), "broadcast": (comm.size - 1,)}[which]
    torch.library.opcheck(getattr(ops, which), (numbers(comm.rank).requires_grad_(grad), ALL, *arguments))


@pytest.mark.parametrize(
    "dtype, strides", [*((torch.float32, s) for s in STRIDES), *((dtype, "transposed") for dtype in DTYPES[1:])]
)
@pytest.mark.parametrize(
    "which, argument", [("all_reduce", ()), ("all_gather", (3,)), ("broadcast", (1,)), ("send", (1,)), ("recv", (1,))]
)
def test_opcheck(which, argument, dtype, strides):
    x = numbers(0, dtype, strides).requires_grad_(dtype in FLOATS)
    torch.library.opcheck(getattr(ops, which), (x, NULL, *argument))


def test_other_types_are_named():
    for dtype, name in ((torch.float64, "Double"), (torch.bool, "Bool"), (torch.complex64, "ComplexFloat")):
        with pytest.raises(TypeError, match=f"float32, float16, bfloat16, int8, int32 and int64, not {name}"):
            ops.all_reduce(torch.zeros(3, dtype=dtype), NULL)


@pytest.mark.mpi
def test_wrong_groups_are_refused(comm):
    for ranks, told in (
        ((0, comm.size), f"names rank {comm.size}, but the ranks started are 0 to {comm.size - 1}"),
        ((comm.rank, comm.rank), "names a rank twice"),
    ):
        with pytest.raises(RunError, match=told):
            operators.connect({ALL: ranks})
    if comm.size > 1:
        with pytest.raises(RunError, match=f"rank {comm.rank} is not in group"):
            operators.connect({ALL: [r for r in range(comm.size) if r != comm.rank]})
    with pytest.raises(
        ValueError, match=f"all_gather over {comm.size + 1} ranks in group {ALL}, which has {comm.size}"
    ):
        ops.all_gather(torch.ones(3), ALL, comm.size + 1)
    with pytest.raises(ValueError, match="a single number"):
        ops.all_gather(torch.tensor(1.0), ALL, comm.size)


@pytest.mark.mpi
def test_a_group_of_some_of_the_ranks(world):
    """Even and odd ranks, at the same time."""
    mine = range(world.rank % 2, world.size, 2)
    operators.connect({ALL: mine})
    assert ops.all_reduce(torch.tensor([world.rank]), ALL).item() == sum(mine)
    sent = operators.bytes_sent()
    assert ops.all_gather(torch.tensor([world.rank]), ALL, len(mine)).tolist() == list(mine)
    assert operators.bytes_sent() - sent == (8 if len(mine) > 1 else 0)
    operators.connect({ALL: ()})
    assert same(ops.all_gather(torch.tensor([world.rank]), ALL, 2), torch.tensor([world.rank] * 2))


# -- processes that load the library and know nothing of mpsplit ---------------------------------

LOAD = f"""
import ctypes, os, torch
torch.ops.load_library({str(LIBRARY)!r})
ops = torch.ops.mpi_extensions
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
def mpi_runs():
    running = ctypes.c_int()
    ctypes.CDLL("libmpi.so.40").MPI_Initialized(ctypes.byref(running))
    return bool(running)
"""
LISTEN = "assert ops.all_gather(torch.ones(2), 1, 3).shape == (6,) and not mpi_runs()"
TALK = """
assert not mpi_runs()
ops.set_group(1, [0, 1])
assert not mpi_runs()
assert ops.all_reduce(torch.tensor([rank + 1.0]), 1).item() == 3 and mpi_runs()
"""


def run(program: str, ranks: int = 0) -> subprocess.CompletedProcess:
    start = [find_mpirun(), "-np", str(ranks), "--bind-to", "none", "--oversubscribe"] if ranks else []
    return subprocess.run(
        [*start, sys.executable, "-c", LOAD + program],
        env={**OPEN_MPI, **rank_environment(OMP_NUM_THREADS="1")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("ranks, program", [(0, LISTEN), (2, "")])
def test_who_names_no_group_starts_no_mpi(ranks, program):
    done = run(program, ranks)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_null_collectives_wait_for_nobody():
    done = run(f"if rank == 0:\n    {LISTEN}", 2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("more", ("", "import mpi4py.MPI\n"), ids=("alone", "mpi4py comes later"))
def test_mpi_starts_at_the_first_collective_and_ends_cleanly(more):
    done = run(TALK + more, 2)  # mpirun complains of ranks that leave MPI running
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ranks_that_were_not_started():
    done = run("ops.set_group(1, [0, 1])")
    assert done.returncode == 1
    assert "group 1 names rank 1, but the ranks started are 0 to 0; start as many as the group needs" in done.stderr


def test_without_the_library_the_schemas_are_the_same(tmp_path):
    program = (
        "import torch; from mpsplit.export.trace import operators as o; "
        "print(o.CONNECTS, *(o.__dict__[n]._schema for n in {}), sep='\\n')"
    )
    names = ("all_reduce", "all_gather", "broadcast", "send", "recv")
    without = subprocess.run(
        [sys.executable, "-c", program.format(names)],
        env=rank_environment(MPSPLIT_CACHE=str(tmp_path)), capture_output=True, text=True, timeout=60, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert without == ["False", *(str(getattr(operators, name)._schema) for name in names)]


def test_another_torch_is_built_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(cpp, "torch_version", lambda: tmp_path / "version.py")
    keys = set()
    for version in ("2.13.0", "2.13.1"):
        (tmp_path / "version.py").write_text(version)
        keys.add(cpp.key.__wrapped__())
    assert len(keys) == 2


def test_a_library_that_does_not_load_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / cpp.TORCH_LIBRARY).write_text("not a library")
    monkeypatch.setattr(cpp, "torch_library", lambda: tmp_path / cpp.TORCH_LIBRARY)
    assert not operators._load_library()
    assert f"{cpp.TORCH_LIBRARY} does not load" in capsys.readouterr().err


def test_without_the_library_ranks_are_refused(monkeypatch):
    monkeypatch.setattr(operators, "CONNECTS", False)
    operators.connect({ALL: (0,), BACKWARDS: ()})
    with pytest.raises(RunError, match="run `python -m mpsplit.native`"):
        operators.connect({ALL: (0, 1)})
