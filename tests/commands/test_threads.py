"""--threads of run, chat and serve: how many threads an engine has, and whether they work."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpsplit.runtime.engine.cores import cores
from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import CLEAN, MPSPLIT, hear_interrupts, mpsplit

pytestmark = needs("the engine")
ENOUGH = cores() > 1  # else an engine has one thread, whatever was asked for


@pytest.fixture(scope="module")
def package(package_of):
    return package_of(EXAMPLE, 1, 1)


def helpers(pid: int) -> int:
    """The threads of an engine beside the one that calls it; only those that ever ran."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    ran = {task.name: int((task / "schedstat").read_text().split()[0]) for task in tasks}
    return sum((task / "comm").read_text() == "mpsplit-helper\n" and ran[task.name] > 0 for task in tasks)


@contextmanager
def started(*arguments):
    child = subprocess.Popen(
        [*MPSPLIT, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=CLEAN, preexec_fn=hear_interrupts,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("threads", [1, 2])
def test_run(package, threads):
    told = json.loads(mpsplit("run", package, "--prompt", "2+2", "--threads", threads, "--json"))
    (spent,) = told["stats"]["accounts"]
    assert (spent["work_shared"] + spent["work_alone"] > 0) == (threads > 1 and ENOUGH)
    assert spent["work_waited"] <= spent["work_shared"]


@pytest.mark.parametrize("threads", [1, 2])
def test_chat(package, threads):
    with started("chat", package, "--threads", threads) as child:
        child.stdin.write("What is the capital of France?\n")
        child.stdin.flush()
        assert any("Paris" in line for line in iter(child.stdout.readline, ""))
        assert helpers(child.pid) == (threads - 1 if ENOUGH else 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_serve(package, threads):
    with started("serve", package, "--port", 0, "--threads", threads) as child:
        assert any("http://" in line for line in iter(child.stdout.readline, ""))
        assert helpers(child.pid) == (threads - 1 if ENOUGH else 0)
