"""What every test has: a time limit that no hang survives, its turn, its world of ranks, and
packages that all share.

The suite runs on one rank, and its mpi-marked tests again on 2 and 4. A test that every rank takes
part in uses `world`.
"""

from __future__ import annotations

import faulthandler
import fcntl
import io
import itertools
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpsplit.comm import mpi_rank, mpi_size
from mpsplit.comm import world as mpi_world
from mpsplit.native import cpp
from tests import running
from tests.again import check_again
from tests.missing import check_required, need
from tests.models import EXAMPLE, make_model
from tests.packages import partition_evenly


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Under mpirun rank 0 reports; the others keep their report to themselves unless something
    failed."""
    check_required()
    if mpi_rank():
        config.pluginmanager.getplugin("terminalreporter")._tw._file = io.StringIO()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if mpi_rank() and (report := config.pluginmanager.getplugin("terminalreporter")).stats.get("failed"):
        print(f"== rank {mpi_rank()}\n{report._tw._file.getvalue()}", file=sys.__stderr__, flush=True)


def pytest_testnodedown(node, error):
    """A process of pytest-xdist is gone, and its tests with it: that is more than a test that
    failed."""
    if error:
        node.config.lost = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "lost"):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_addoption(parser):
    parser.addoption("--seeds", help="FIRST:END of the changes that test_mutated_files.py tries")
    parser.addoption("--thorough", action="store_true", help="also the cases that look for the same thing once more")
    parser.addoption("--quick", action="store_true", help="only what makes no package and starts no command")
    parser.addoption("--again", metavar="FILE", help="with --last-failed: what looks at the clock; FILE tells of it")


def pytest_collection_modifyitems(config, items):
    """Without what would show nothing new on so many ranks, and what only a thorough run looks
    for; files whose tests may take longest come first, so that no worker is left with one."""

    def wanted(item) -> bool:
        most, thorough = item.get_closest_marker("most"), item.get_closest_marker("thorough")
        once_more = thorough and mpi_size() >= (thorough.args or (1,))[0] and not config.option.thorough
        quick = not config.option.quick or is_quick(item)
        return quick and not once_more and (not most or mpi_size() <= most.args[0])

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]
    limits = Counter()
    for item in items:
        marker = item.get_closest_marker("seconds")
        limits[item.path] += marker.args[0] if marker else 0
    items.sort(key=lambda item: -limits[item.path])  # the order within a file stays


def pytest_collection_finish(session):
    if session.config.option.again:
        failed = [item.nodeid for item in session.items]
        check_again(failed, [item.nodeid for item in session.items if item.get_closest_marker("clock")])
        Path(session.config.option.again).write_text("".join(f"{test}\n" for test in failed))


def is_quick(item) -> bool:
    """A test that makes no model and no package, starts no process, measures nothing and is given
    no time of its own."""
    slow_fixtures = {"model_of", "package_of", "build_folder", "browser"}
    starts = any(
        hasattr(item.module, name)
        for name in ("subprocess", "make_model", "convert", "random_package", *running.__all__)
    )
    marked = any(item.get_closest_marker(name) for name in ("mpi", "seconds", "alone"))
    return not (starts or marked or slow_fixtures & set(item.fixturenames))


def pytest_terminal_summary(terminalreporter, config):
    """Adds to the file that launch/test names how long each test took, on how many ranks."""
    path = os.environ.get("MPSPLIT_TEST_TIMES")
    if path and not mpi_rank() and not hasattr(config, "workerinput"):
        seconds = Counter()
        for report in itertools.chain(*terminalreporter.stats.values()):
            if hasattr(report, "duration"):
                seconds[report.nodeid] += report.duration
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{spent:8.1f} s  {test} ({mpi_size()})\n" for test, spent in seconds.items())


@contextmanager
def turn(folder: Path, alone: bool):
    """While the block runs, no test that asked to be alone runs beside it; who waits to be alone
    keeps the door shut for the others."""
    with open(folder / "door", "w") as door, open(folder / "room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def taking_turns(request, tmp_path_factory):
    """Between the workers of pytest-xdist; ranks run the same test at the same time, and must."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        yield
        return
    with turn(tmp_path_factory.getbasetemp().parent, request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture(autouse=True)
def time_limit(request, taking_turns):
    """Ends this rank with the stacks of its threads when a test hangs; mpirun then ends
    the others."""
    marker = request.node.get_closest_marker("seconds")
    others = 2 if os.environ.get("PYTEST_XDIST_WORKER") else 1  # the cores are shared
    seconds = others * (marker.args[0] if marker else 120)
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def log_of_its_own():
    """A command that a test runs in this process sets up a log, which writes where this test's
    errors are caught: the next test has another place."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def world():
    return mpi_world()


@pytest.fixture(scope="session")
def shared_folder(world):
    """A temporary directory that all ranks see."""
    folder = Path(world.exchange(tempfile.mkdtemp(prefix="mpsplit-test-"))[0])
    yield folder
    # ranks that are not in step meet nobody here
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
    world.exchange(None)
    faulthandler.cancel_dump_traceback_later()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def made_folder(shared_folder):
    """Models and packages that nobody changes; one folder for all runs of launch/test."""
    folder = Path(os.environ.get("MPSPLIT_TEST_FOLDER") or shared_folder / "made")
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def made_once(world, path: Path):
    """While the block runs, no other run makes what is to stand at `path`; all ranks are in it."""
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        if world.rank == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
        world.exchange(None)
        yield
        world.exchange(None)


@pytest.fixture(scope="session")
def model_of(world, made_folder):
    """family -> its model directory, made once."""

    def make(family: str) -> Path:
        folder = made_folder / family
        with made_once(world, folder):
            if world.rank == 0 and not folder.exists():
                make_model(family, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def package_of(world, shared_folder, made_folder, model_of):
    """(model directory or family, tensor, pipeline) -> this run's copy of its package; every rank
    makes its part, or one rank all of them."""
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx

    def make(model: str | Path, tensor: int, pipeline: int) -> Path:
        folder = model if isinstance(model, Path) else model_of(model)
        name = f"{folder.name}-{tensor}x{pipeline}"
        known = folder == EXAMPLE or folder.parent == made_folder
        made, out = (made_folder if known else shared_folder / "own") / name, shared_folder / name
        made.parent.mkdir(exist_ok=True)
        if out.exists():
            return out
        with made_once(world, made):
            if not (made / "manifest.json").exists():
                partition_evenly(folder, made, tensor, pipeline, world)
                convert(made, world, find_pnnx())
            world.exchange(None)
            if world.rank == 0:
                shutil.copytree(made, out)
        return out

    return make


@pytest.fixture(scope="session")
def kernels():
    """As launch/setup built them."""
    need("the kernels")
    return cpp.kernels()


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """tiny-vicuna's tokenizer and template."""
    from mpsplit.export.model.tokenizer_files import copy_tokenizer
    from mpsplit.runtime.talk.text import Text

    folder = tmp_path_factory.mktemp("tokenizer")
    copy_tokenizer(EXAMPLE, folder)
    return Text(folder)
