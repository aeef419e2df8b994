"""Processes that end with the one that started them, however that one ends.

In: a command. Out: its process, which the kernel kills as soon as this one is no more; with
`family`, all that it starts too.

Nobody can clean up after a kill -9 but the kernel. This process holds the end of a pipe, and
nothing is ever written to it. The child has the other end open, without knowing of it. When this
process ends, the pipe does, and the kernel sends the signal that was ordered for that
(NOTES: A pipe as a leash).

Ranks are children of mpirun, which knows of no pipe. They ask the kernel for the same themselves:
`end_with_parent`.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
# mpirun's process and the number of its daemon, 0 for mpirun itself; where that one listens
DAEMON = re.compile(rb"\0PMIX_SERVER_URI\d+=prterun-[^\0;]*-(\d+)@0\.(\d+);tcp4://([\d.]+):(\d+)")


def leashed(command: list[str], family: bool = False, **options: Any) -> subprocess.Popen:
    """`family`: a session of its own, of which all are killed; a terminal's Ctrl-C does not reach
    it."""
    pipe, _ = _pipe(os.getpid())
    leash = os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY)  # opened anew, for it has an owner of its own
    try:
        process = subprocess.Popen(command, pass_fds=(leash,), start_new_session=family, **options)
        fcntl.fcntl(leash, fcntl.F_SETOWN, -process.pid if family else process.pid)
        fcntl.fcntl(leash, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)
    finally:
        os.close(leash)
    return process


def run(command: list[str], timeout: float | None = None, **options: Any) -> subprocess.CompletedProcess:
    """subprocess.run(command, check=False), on a leash."""
    with leashed(command, **options) as process:
        try:
            out, wrong = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, wrong)


@functools.cache
def _pipe(process: int) -> tuple[int, int]:
    """That of this process; one that forks takes another one."""
    return os.pipe()


def end_with_parent() -> None:
    """By a process whose parent starts it, and is not one of ours."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_mpirun() -> None:
    """By a rank, whose parent is mpirun or its daemon; nothing elsewhere. One whose mpirun has gone
    by now ends here: it would import much before it finds that it cannot start MPI. One that
    imports mpi4py alone has mpirun's variables too, but was not started with them."""
    started_with = b"\0" + Path("/proc/self/environ").read_bytes()
    if b"\0OMPI_COMM_WORLD_RANK=" in started_with:
        end_with_parent()
        if _has_gone(started_with):
            os.kill(os.getpid(), signal.SIGKILL)


def _has_gone(started_with: bytes) -> bool:
    """Whether mpirun, or its daemon of this host, does not listen any more. One who is our parent
    still is there, and nobody is asked; a shell may stand between."""
    found = DAEMON.search(started_with)
    if not found:
        return False
    process, number, host, port = (word.decode() for word in found.groups())
    if os.getppid() == int(process) if number == "0" else os.getppid() != 1:
        return False
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        return False
    except OSError:
        return True


def under_mpirun() -> bool:
    return "OMPI_COMM_WORLD_RANK" in os.environ
