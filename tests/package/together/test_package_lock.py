"""Who uses a package: many may run it, one may write it, and whoever is refused hears by whom."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from multiprocessing import get_context

import pytest

from mpsplit.comm import Alone
from mpsplit.errors import PackageError
from mpsplit.package.together import package_lock
from mpsplit.package.together.package_lock import PREFIX, held, held_together
from tests.running import rank_environment

HOLDS = """
import sys
from pathlib import Path
from mpsplit.package.together.package_lock import held
folder, writes = Path(sys.argv[1]), "--writes" in sys.argv
sys.argv = ["mpsplit", "convert", str(folder)]
with held(folder, "converted", writes):
    print("here", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold the package until their input ends."""
    started = []

    def start(*words):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(tmp_path), *words],
            env=rank_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(child)
        assert child.stdout.readline() == "here\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stdin.close(), child.stdout.close()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_many_may_run_it_and_one_may_write_it(tmp_path, holder):
    runs = holder()
    with held(tmp_path, "run"), held(tmp_path, "run"):
        assert len(files(tmp_path)) == 3
    with pytest.raises(PackageError) as refused, held(tmp_path, "converted", writes=True):
        pass
    said = str(refused.value)
    assert f"{tmp_path} is being converted by process {runs.pid} (mpsplit convert {tmp_path}, since " in said
    assert said.endswith("); wait for it or end it")
    runs.communicate("\n")
    assert files(tmp_path) == []
    writes = holder("--writes")
    for wants_to_write in (False, True):
        with pytest.raises(PackageError, match=f"by process {writes.pid} "), held(tmp_path, "run", wants_to_write):
            pass


def test_it_vanishes_with_its_process(tmp_path, holder):
    killed = holder("--writes")
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(files(tmp_path)) == 1
    with held(tmp_path, "converted", writes=True):
        assert [name for name in files(tmp_path) if str(killed.pid) in name] == []
    assert files(tmp_path) == []


def _race(folder, barrier, results):
    barrier.wait()
    try:
        with held(folder, "converted", writes=True):
            results.put("won")
            barrier.wait()
    except PackageError as wrong:
        results.put(str(wrong))
        barrier.wait()


def test_of_several_that_come_at_once_one_is_first(tmp_path):
    fork = get_context("fork")
    for _ in range(20):
        barrier, results = fork.Barrier(3), fork.Queue()
        children = [fork.Process(target=_race, args=(tmp_path, barrier, results)) for _ in range(3)]
        for child in children:
            child.start()
        said = sorted(results.get() for _ in children)
        for child in children:
            child.join()
        assert said[-1] == "won" and all("is being converted by process" in other for other in said[:2]), said


def test_ranks_of_one_command_are_one_holder(tmp_path):
    another = held(tmp_path, "run", job="other")
    with (
        held(tmp_path, "converted", True, "job"),
        held(tmp_path, "converted", True, "job"),
        pytest.raises(PackageError),
    ):
        another.__enter__()
    again = held_together(tmp_path, "converted", Alone())
    with held_together(tmp_path, "converted", Alone()), pytest.raises(PackageError, match="is being converted"):
        again.__enter__()
    assert files(tmp_path) == []


def test_all_ranks_are_refused_when_one_host_is(tmp_path):
    class OtherHost(Alone):
        said = [["a"], ["", f"{tmp_path} is being run by process 7 on board-2 (mpsplit run, since 12:03); wait"]]

        def exchange(self, value):
            return self.said.pop(0)

    with pytest.raises(PackageError, match="by process 7 on board-2"), held_together(tmp_path, "x", OtherHost()):
        raise AssertionError("it went on")
    assert files(tmp_path) == []


def test_what_cannot_be_written_is_run_all_the_same(tmp_path, monkeypatch):
    opened = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, *mode)

    monkeypatch.setattr(package_lock.os, "open", read_only)
    with held(tmp_path, "run"):
        assert files(tmp_path) == []
    with pytest.raises(PackageError, match="cannot be written .Read-only file system."), held(tmp_path, "x", True):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def none(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(package_lock.fcntl, "flock", none)
    with held(tmp_path, "converted", writes=True):
        pass
    assert f"files of {tmp_path} cannot be locked" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_holder_whose_file_says_nothing_is_one_all_the_same(tmp_path):
    path = tmp_path / f"{PREFIX}host.1.0.json"
    path.write_text('{"doing": 7}')
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PackageError, match="is being used by process 0"), held(tmp_path, "run"):
            pass
    with held(tmp_path, "run"):
        assert not path.exists()


def test_one_that_looks_for_ever_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(package_lock, "PATIENCE", 0.0)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(PackageError, match="another process looks into"), held(tmp_path, "run"):
        pass
    os.close(folder)
