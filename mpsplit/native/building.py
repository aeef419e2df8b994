"""Builds the C++ of extensions/, and of third_party/ what it needs: `python -m mpsplit.native`.

`python -m mpsplit.native pnnx` builds the pnnx of third_party/, for who wants it.

In: sources, a compiler, cmake. Out: what cpp.py finds. The first build takes a few minutes, most of
them for ncnn, which is kept for the next one. Invariant: what stands in the cache is whole; it is
moved there in one step.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mpsplit.cache_folder import cache
from mpsplit.leash import leashed
from mpsplit.native import cpp
from mpsplit.native.cpp import BuildError
from mpsplit.native.third_party import PINS, FetchError, sources
from mpsplit.progress import percent_bar

PNNX_SOURCE = "src/ncnn/tools/pnnx/src"  # within what third_party/pnnx pins


def build() -> Path:
    """Builds what is not built yet; gives the folder that holds it."""
    target = cpp.folder()
    if cpp.is_built():
        return target
    if not cpp.SOURCES.is_dir():
        raise BuildError(f"there is no {cpp.SOURCES}; the C++ is built from a checkout of mpsplit")
    _check_tools("mpi4py carries the messages instead")
    if importlib.util.find_spec("nanobind") is None:
        raise BuildError("not built: nanobind is missing (pip install nanobind); mpi4py carries the messages instead")
    with _alone():
        if not cpp.is_built():
            try:
                ncnn = [f"-Dncnn_DIR={_ncnn() / 'lib' / 'cmake' / 'ncnn'}"]
            except (FetchError, BuildError) as wrong:
                print(f"{wrong}; the stock engine runs packages instead, slower")
                ncnn = []
            torch = [f"-DMPSPLIT_TORCH={version.parent}"] if (version := cpp.torch_version()) else []
            options = [f"-DPython_EXECUTABLE={sys.executable}", *ncnn, *torch]
            _compile("mpsplit", cpp.SOURCES, target, options, _keep)
    cpp.forget()
    return target


def build_pnnx() -> Path:
    """Builds pnnx on this torch, where it is not built yet; gives the folder that holds it, beside
    the torch operators, which it finds there."""
    if (torch := cpp.torch_version()) is None:
        raise BuildError("not built: torch is missing (pip install 'mpsplit[export]')")
    program = cpp.pnnx_program()
    if not program.exists():
        _check_tools("pnnx of PyPI converts, without operators")
        with _alone():
            if not program.exists():
                source = sources("pnnx", cache(), PNNX_SOURCE) / PNNX_SOURCE
                options = [f"-DPNNX_SOURCE={source}", f"-DMPSPLIT_TORCH={torch.parent}"]
                _compile("pnnx", PINS / "pnnx", program.parent, options, _keep_pnnx)
    if library := cpp.torch_library():
        link = program.with_name(f".{cpp.TORCH_LIBRARY}.{os.getpid()}")
        link.symlink_to(library)
        os.replace(link, program.with_name(cpp.TORCH_LIBRARY))
    return program.parent


def _check_tools(instead: str) -> None:
    for program, remedy in (
        (cpp.compiler(), "a C++ compiler (apt install g++)"),
        (_found_cmake(), "cmake (pip install cmake)"),
    ):
        if not program:
            raise BuildError(f"not built: {remedy} is missing; {instead}")


@contextmanager
def _alone() -> Iterator[None]:
    """One process builds at a time."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another process that builds", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ncnn() -> Path:
    """ncnn as third_party/ncnn builds it, installed in a folder of its own."""
    target = cache() / f"ncnn-{cpp.ncnn_key()}"
    if not (target / "lib").is_dir():
        options = [f"-DNCNN_SOURCE={sources('ncnn', cache())}", "-DCMAKE_INSTALL_LIBDIR=lib"]
        _compile("ncnn", PINS / "ncnn", target, options, _install)
    return target


def _found_cmake() -> str | None:
    return shutil.which("cmake") or shutil.which(cpp.beside("cmake"))


def _cmake() -> str:
    program = _found_cmake()
    assert program, "build() has looked for it"
    return program


def _compile(what: str, source: Path, target: Path, options: list[str], keep: Callable[[Path, Path], None]) -> None:
    """Configures and builds in a folder that does not outlive this; `keep` takes what is wanted
    from it to the target. It lies in the checkout: to ccache, two checkouts then look alike."""
    above = cpp.SOURCES.parent / "build"
    above.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=above) as partial:
        tree, log = Path(partial) / "build", cache() / f"{what}.log"
        configure = [_cmake(), "-S", str(source), "-B", str(tree), *options, *cpp.flags()]
        with open(log, "w") as out:
            for command in (configure, [_cmake(), "--build", str(tree), "-j", str(os.cpu_count())]):
                if _run_with_bar(what, command, out):
                    lines = log.read_text().splitlines()
                    error = next((line for line in lines if "rror:" in line or "rror at" in line), "it said no more")
                    raise BuildError(f"{what} did not build: {error.strip()}; all of it is in {log}")
        keep(tree, target)


def _run_with_bar(what: str, command: list[str], out: TextIO) -> int:
    """The exit code; make says how far it is in percent."""
    process = leashed(command, family=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with percent_bar(f"building {what}") as advance:
        for line in process.stdout or ():
            out.write(line)
            if percent := re.match(r"\[ *(\d+)%\]", line):
                advance(int(percent[1]))
    return process.wait()


def _keep(tree: Path, target: Path) -> None:
    """The modules, and the program for ranks without Python."""
    target.mkdir(exist_ok=True)
    for built in (*tree.glob("rank/mpsplit-rank"), *tree.rglob(f"*{cpp.SUFFIX}"), *tree.rglob(cpp.TORCH_LIBRARY)):
        _put(built, target / built.name)


def _keep_pnnx(tree: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    _put(tree / "pnnx_on_torch", target / "pnnx")


def _install(tree: Path, target: Path) -> None:
    installed = tree / "installed"
    command = [_cmake(), "--install", str(tree), "--prefix", str(installed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _put(installed, target)


def _put(made: Path, target: Path) -> None:
    """In one step, from another file system too: nobody loads half a file."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.move(made, beside)
    os.replace(beside, target)


def main(what: list[str]) -> int:
    """0 what was asked for is there, 1 mpsplit must do without, 2 something is wrong."""
    if what == ["pnnx"]:
        return _tell_pnnx()
    if what:
        print(f"'{' '.join(what)}' is nothing to build; give pnnx, or nothing for the C++", file=sys.stderr)
        return 2
    began, there = time.perf_counter(), cpp.is_built()
    try:
        target = build()
    except BuildError as wrong:
        print(wrong)
        return 1 if str(wrong).startswith("not built") else 2
    done = "was built before" if there else f"built in {time.perf_counter() - began:.0f} s"
    parts = cpp.built()
    print(f"{target} {done}: {'; '.join(parts)}")
    if not parts:
        return 2
    return 0 if cpp.load("_engine") else 1


def _tell_pnnx() -> int:
    """Its folder alone on standard output, for a shell's PATH."""
    try:
        print(build_pnnx())
    except (BuildError, FetchError) as wrong:
        print(wrong, file=sys.stderr)
        return 1 if str(wrong).startswith("not built") else 2
    return 0
