"""Encrypted packages run as plain ones do. On 1, 2 and 4 ranks."""

import subprocess

import pytest

from mpsplit.native import cpp
from mpsplit.package.sealed.encryption import encrypt
from mpsplit.package.sealed.keys import Key, KeySource
from mpsplit.runtime.load import ENGINES, load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits
from tests.missing import need
from tests.models import EXAMPLE
from tests.running import CLEAN, MPSPLIT, rank_environment, refused

PROMPT = (5, 9, 2, 77, 31)


def tokens(world, *given, **more) -> tuple[int, ...]:
    loop = load_loop(*given, **more)
    tokens = ()
    if world.rank == 0:
        tokens = loop.generate(Request(PROMPT, 12, ignore_eos=True)).token_ids
        loop.end()
    else:
        loop.follow()
    loop.engine.close()
    return tokens


@pytest.mark.mpi
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_tokens(world, package_of, shared_folder, engine):
    if engine == "native":
        need("the engine")
    plain, key = package_of("llama", *splits(world.size)[0]), shared_folder / "key"
    sealed = shared_folder / f"sealed-{engine}"
    if world.rank == 0:
        key.write_bytes(bytes(range(32)))
        encrypt(plain, sealed, Key(bytes(range(32))))
    world.exchange(None)
    expected = tokens(world, plain, world, engine=engine)
    assert tokens(world, sealed, world, engine=engine, keys=KeySource(str(key))) == expected


@pytest.fixture(scope="module")
def sealed(package_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "key").write_bytes(bytes(range(32)))
    encrypt(package_of(EXAMPLE, 2, 1), folder / "package", Key(bytes(range(32))))
    return folder


def test_the_command_line(sealed):
    command = [*MPSPLIT, "run", sealed / "package", "--prompt", "What is the capital of Japan?"]
    for more, environment in (
        (["--key-file", sealed / "key"], {}),
        (["--key-command", f"cat {sealed / 'key'}"], {}),
        ([], {"MPSPLIT_KEY": bytes(range(32)).hex()}),
    ):
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, env=CLEAN | environment, timeout=60, check=True
        )
        assert done.stdout.strip() == "The capital of Japan is Tokyo."
    assert "no key was given" in refused("run", sealed / "package", "--prompt", "x")


def test_a_rank_without_python_says_that_it_has_no_keys(sealed):
    need("mpsplit-rank")
    program = cpp.folder() / "mpsplit-rank"
    from mpsplit.mpirun import OPEN_MPI, find_mpirun

    lead = [*MPSPLIT, "run", sealed / "package", "--prompt", "x", "--key-file", sealed / "key"]
    done = subprocess.run(
        [find_mpirun(), "-np", "1", *lead, ":", "-np", "1", program, sealed / "package"],
        capture_output=True, text=True, env=OPEN_MPI | CLEAN, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "rank.txt is encrypted, and mpsplit-rank has no keys" in done.stderr


@pytest.mark.parametrize("name", ["MPSPLIT_KEY", "MPSPLIT_KEY_COMMAND"])
def test_a_rank_without_python_demands_a_sealed_package_too(package_of, tmp_path, name):
    need("mpsplit-rank")
    program = cpp.folder() / "mpsplit-rank"
    alone = rank_environment(RANK="1", WORLD_SIZE="2", MPSPLIT_STORE=str(tmp_path))
    done = subprocess.run(
        [program, package_of(EXAMPLE, 2, 1)],
        capture_output=True, text=True, env=alone | {name: "x"}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "a key is configured, and this package is not sealed" in done.stderr
