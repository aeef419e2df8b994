"""Who uses a package: many may run it, or one may write it.

In: a package's folder, what is done with it. Out: the right to do it while a block runs, or a
PackageError that says who else is at it.

Each holder has a file in the folder that says who it is, and keeps it flocked; it goes with the
block, and the lock with the process. The folder itself is flocked only while somebody looks at
these files and adds one, so that of two who come at once one is the first.

Invariant: a file that nobody has flocked belongs to a process that died, and is taken away. Ranks
of one command are one holder: they have one `job`. Where nothing can be written, or nothing be
locked, a package is run without, because it can hardly be converted there.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import MpsplitError, PackageError
from mpsplit.package.json_fields import flag, record, text, whole
from mpsplit.package.together.exchanged import exchanged, of_rank_0, plain

PREFIX = ".in-use."
PATIENCE = 10.0  # seconds for others who look at the files too, which takes them a millisecond
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS)
NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)
LETTERS = 200  # of a command
LINE = text(r"[^\x00-\x1f\x7f]{0,4096}", "text of one line")
numbers = itertools.count()


@dataclass(frozen=True)
class Holder:
    """`doing` fits into "it is being ..."; `job` tells one command from another."""

    doing: str
    writes: bool
    job: str
    command: str
    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        where = "" if self.host == platform.node() else f" on {self.host}"
        return f"process {self.pid}{where} ({self.command}, since {self.since})"


SHAPE = record(
    {name: LINE for name in ("doing", "job", "command", "host", "since")} | {"writes": flag, "pid": whole(0, 1 << 40)}
)
UNKNOWN = Holder("used", True, "", "its file cannot be read", 0, platform.node(), "?")


def me(doing: str, writes: bool, job: str = "") -> Holder:
    words = ["mpsplit", *sys.argv[1:]]
    command = re.sub(r"[\x00-\x1f\x7f]", " ", " ".join(words))[:LETTERS]
    return Holder(doing, writes, job, command, os.getpid(), platform.node(), time.strftime("%H:%M"))


@contextmanager
def held(package: Path, doing: str, writes: bool = False, job: str = "") -> Iterator[None]:
    """While the block runs, nobody writes the package; with `writes` nobody else uses it at all."""
    lock = _take(package, me(doing, writes, job))
    try:
        yield
    finally:
        if lock:
            lock.release()


@contextmanager
def held_together(package: Path, doing: str, comm: Communicator) -> Iterator[None]:
    """For all ranks of a command that writes the package. One of each host takes it, and all are
    refused alike."""
    job, lock, why = of_rank_0(comm, secrets.token_hex(8), plain(LINE)), None, ""
    if comm.host_lead:
        try:
            lock = _take(package, me(doing, True, job))
        except MpsplitError as wrong:
            why = str(wrong)
    try:
        if whys := list(filter(None, exchanged(comm, why, plain(LINE)))):
            raise PackageError(whys[0])
        yield
        comm.exchange(None)  # the last one is through
    finally:
        if lock:
            lock.release()


class _Lock:
    def __init__(self, folder: int, name: str, descriptor: int):
        self.folder, self.name, self.descriptor = folder, name, descriptor

    def release(self) -> None:
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self.folder)  # wherever the folder is by now
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # also where a child has the descriptor too
        os.close(self.descriptor)
        os.close(self.folder)


def _take(package: Path, mine: Holder) -> _Lock | None:
    """None where there is nothing to lock with."""
    try:
        folder = os.open(package, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as wrong:
        raise PackageError(
            f"there is no package at {package} ({wrong.strerror}); make one with `mpsplit partition`"
        ) from None
    try:
        _open_door(folder, package)
        for other in _others(package):
            if (mine.writes or other.writes) and not (mine.job and other.job == mine.job):
                raise PackageError(f"{package} is being {other.doing} by {other}; wait for it or end it")
        lock = _Lock(folder, *_own_file(package, mine))
    except OSError as wrong:
        os.close(folder)
        if wrong.errno in NO_LOCKS:
            print(f"mpsplit: files of {package} cannot be locked ({wrong.strerror}): see to it that nobody writes there"
                  " while others use it", file=sys.stderr)  # fmt: skip
            return None
        if not mine.writes and wrong.errno in (*NOT_OURS, errno.ENOSPC, errno.EDQUOT):
            return None
        raise PackageError(
            f"{package} cannot be written ({wrong.strerror}); name another folder, or make room"
        ) from None
    except BaseException:
        os.close(folder)
        raise
    fcntl.flock(folder, fcntl.LOCK_UN)
    return lock


def _open_door(folder: int, package: Path) -> None:
    began = time.monotonic()
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > began + PATIENCE:
                raise PackageError(f"another process looks into {package} for {PATIENCE:.0f} s; end it") from None
            time.sleep(0.002)


def _others(package: Path) -> Iterator[Holder]:
    """Who lives; what is left of the dead goes."""
    for path in sorted(package.glob(f"{PREFIX}*.json")):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):
                path.unlink()
        except BlockingIOError:
            yield _holder_of(descriptor)
        finally:
            os.close(descriptor)


def _holder_of(descriptor: int) -> Holder:
    try:
        data = json.loads(os.pread(descriptor, 1 << 16, 0))
        SHAPE(data, "it")
        return Holder(**{name: data[name] for name in asdict(UNKNOWN)})
    except (ValueError, MpsplitError):
        return UNKNOWN


def _own_file(package: Path, mine: Holder) -> tuple[str, int]:
    """Its name and its descriptor. It has its name only once it is locked and whole."""
    host = re.sub(r"[^\w.-]", "_", mine.host)[:64]
    name = f"{PREFIX}{host}.{mine.pid}.{next(numbers)}.json"
    unfinished = package / f"{name}.partial"
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(mine)).encode())
        os.rename(unfinished, package / name)
    except BaseException:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)
        raise
    return name, descriptor
