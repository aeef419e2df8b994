"""What tests start: commands as a user types them, ranks, and what becomes of their processes."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

__all__ = [
    "CLEAN", "MPSPLIT", "completed", "descendants", "gone", "hear_interrupts", "here", "killed_after", "mpsplit",
    "rank_environment", "refused", "start_rank",
]  # fmt: skip
ROOT = Path(__file__).parents[1]
MPSPLIT = [sys.executable, "-m", "mpsplit"]
# pytest-mpi makes this process an MPI world of its own; what is started from it must not think that
# it is in there
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_"))}


def completed(*arguments, env: dict[str, str] = CLEAN, timeout: float = 60, stdin=None) -> subprocess.CompletedProcess:
    """`mpsplit ARGUMENTS`, when it has ended."""
    return subprocess.run(
        [*MPSPLIT, *map(str, arguments)],
        capture_output=True, text=True, env=env, timeout=timeout, check=False, input=stdin,
    )  # fmt: skip


def here(*arguments) -> subprocess.CompletedProcess:
    """`mpsplit ARGUMENTS`, done by this process, which has loaded torch; for what stays in one
    process."""
    from mpsplit.cli import main

    root, environment = logging.getLogger(), dict(os.environ)
    handlers, level, on_end = root.handlers[:], root.level, signal.getsignal(signal.SIGTERM)
    out, errors = io.StringIO(), io.StringIO()
    os.environ.clear()
    os.environ.update(CLEAN)
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            code = main(list(map(str, arguments)))
    finally:
        os.environ.clear()
        os.environ.update(environment)
        root.handlers[:] = handlers
        root.setLevel(level)
        signal.signal(signal.SIGTERM, on_end)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


def _done(*arguments, **how) -> subprocess.CompletedProcess:
    stays = (arguments[:1] == ("stages",) or "--serial" in arguments) and "--verify" not in arguments
    return here(*arguments) if stays else completed(*arguments, **how)


def mpsplit(*arguments, code=0, stdin=None) -> str:
    """What `mpsplit ARGUMENTS` prints; it ends with `code`."""
    done = _done(*arguments, timeout=250, stdin=stdin)
    assert done.returncode == code, done.stderr
    return done.stdout


def refused(*arguments) -> str:
    """What `mpsplit ARGUMENTS` says when it refuses: one line, exit code 2."""
    done = _done(*arguments)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("mpsplit: "), (done.returncode, done.stderr)
    return lines[0]


def hear_interrupts() -> None:
    """A suite started in the background ignores SIGINT, and hands that on to all it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def descendants(pid: int) -> list[tuple[int, str]]:
    """(pid, command line) of all processes below `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                line = (entry / "cmdline").read_text().replace("\0", " ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid:
                found += [(int(entry.name), line), *descendants(int(entry.name))]
    return found


def gone(pids, seconds: float = 10) -> bool:
    """Whether the processes end in time."""
    until = time.monotonic() + seconds
    while left := any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return not left


def rank_environment(**more: str) -> dict[str, str]:
    """That of a rank which no mpirun starts, and `more`."""
    kept = {name: value for name, value in CLEAN.items() if not name.startswith("MPSPLIT_T")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def start_rank(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A rank whose program is Python text."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(
        command, env=rank_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=hear_interrupts,
    )  # fmt: skip


def killed_after(seconds: float | None, work) -> bool:
    """Whether `work`, in a child of this process, was killed before it was done; without a time it
    is let be."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL
