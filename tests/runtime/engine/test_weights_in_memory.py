"""Weights are copied where that brings large pages, and mapped where it would bring nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.missing import needs
from tests.packages import weight_path
from tests.running import rank_environment

PACKAGE = Path(__file__).parents[2] / "fixtures" / "package-0.1"
MORE = 32 << 20  # bytes that no matrix has, and that are mapped or copied all the same
# what a machine does whose large pages are off, PR_SET_THP_DISABLE does for a process
PROGRAM = """
import ctypes, re, sys
from pathlib import Path
from mpsplit.native import cpp
if sys.argv[2] == "off":
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0
def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
engine, comm = cpp.load("_engine"), cpp.load("_comm").null(0, 2)
before = own()
held = engine.Engine(sys.argv[1], comm, 1)
print(own() - before, *engine.keeping())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A rank whose last file of packed weights is longer than its graph says, written in small
    pieces: the page cache has it in small pages."""
    folder = shutil.copytree(PACKAGE / "rank-0", tmp_path_factory.mktemp("weights") / "rank-0")
    with open(weight_path(folder, "packed", -1), "ab", buffering=0) as file:
        for _ in range(MORE >> 12):
            file.write(b"x" * 4096)
    return folder


def loaded(folder: Path, large_pages: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, str(folder), large_pages]
    return subprocess.run(
        command, env=rank_environment(**environment), capture_output=True, text=True, timeout=60, check=False
    )


@needs("the engine")
@pytest.mark.parametrize(
    "large_pages, environment, copies, why",
    [
        ("off", {}, False, "this process may have no large pages"),
        ("off", {"MPSPLIT_WEIGHTS": "copy"}, True, "MPSPLIT_WEIGHTS=copy"),
        ("on", {"MPSPLIT_WEIGHTS": "map"}, False, "MPSPLIT_WEIGHTS=map"),
    ],
)
def test_what_becomes_of_the_weights(folder, large_pages, environment, copies, why):
    done = loaded(folder, large_pages, **environment)
    grown, said, *told = done.stdout.split(" ", 2)
    assert (said, told) == (str(copies), [f"{why}\n"]), done
    assert (int(grown) > MORE) is copies and (copies or int(grown) < MORE / 2), done.stdout


@needs("the engine")
def test_a_word_that_is_none(folder):
    done = loaded(folder, "on", MPSPLIT_WEIGHTS="both")
    assert re.search(r"EngineError: MPSPLIT_WEIGHTS=both is neither map nor copy", done.stderr), done.stderr
