"""Builds the C++ of extensions/ and finds what was built: `python -m mpsplit.native` builds, `load()` imports.

In: extensions/, a compiler. Out: a module in ~/.cache/mpsplit/KEY (or MPSPLIT_CACHE/KEY), where KEY is a hash of the sources,
the compiler, the flags, the processor and this Python: what fits no more is never loaded. Nothing is built by importing.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType

from mpsplit.errors import MpsplitError

SOURCES = Path(__file__).parents[1] / "extensions"
MODULES = ("_comm", "_kernels")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


class BuildError(MpsplitError):
    """The C++ could not be built here; everything also works without it, slower."""


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


def _flags() -> list[str]:
    return ["-DMPSPLIT_PORTABLE=ON"] if os.environ.get("MPSPLIT_PORTABLE") == "1" else []


def _processor() -> str:
    """What -march=native depends on: a cache on a shared disk serves machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return platform.machine() + next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


@functools.cache
def key() -> str:
    """Changes when what is built would."""
    compiler = _compiler()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout if compiler else b""
    found = hashlib.sha256(version)
    libraries = [str(Path(path).exists()) for path in ("/usr/include/gloo/context.h", _beside("mpicxx"))]
    for text in (SUFFIX, sys.prefix, _processor(), *libraries, *_flags()):
        found.update(text.encode() + b"\0")
    for path in sorted(p for p in SOURCES.rglob("*") if p.suffix in (".h", ".cpp", ".txt")):
        found.update(str(path.relative_to(SOURCES)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _beside(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def cache() -> Path:
    """Where everything lies that can be made again."""
    return Path(os.environ.get("MPSPLIT_CACHE") or Path.home() / ".cache" / "mpsplit")


def folder() -> Path:
    return cache() / key()


def _module_path(name: str) -> Path:
    return folder() / f"{name}{SUFFIX}"


def _is_built() -> bool:
    return all(_module_path(name).exists() for name in MODULES)


def kernels(required: bool = True) -> ModuleType | None:
    """The quantised linear layers of extensions/kernels."""
    module = load("_kernels")
    if module is None and required:
        raise BuildError(
            "8, 6 and 4 bits need the kernels, which are not built here; run `python -m mpsplit.native` "
            "(it says what is missing), or convert with --quant f32"
        )
    return module


@functools.cache
def load(name: str = "_comm") -> ModuleType | None:
    """The module, or None when it was not built."""
    path = _module_path(name)
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as wrong:  # a library that it was linked with has gone
        print(f"mpsplit: {path} does not load ({wrong}); remove {path.parent} and build again", file=sys.stderr)
        return None
    return module


def build() -> Path:
    """Builds what is not built yet; gives the folder that holds it."""
    target = folder()
    if _is_built():
        return target
    if not SOURCES.is_dir():
        raise BuildError(f"there is no {SOURCES}; the C++ is built from a checkout of mpsplit")
    for program, remedy in ((_compiler(), "a C++ compiler (apt install g++)"), (_cmake(), "cmake (pip install cmake)")):
        if not program:
            raise BuildError(f"not built: {remedy} is missing; mpi4py carries the messages instead")
    if importlib.util.find_spec("nanobind") is None:
        raise BuildError("not built: nanobind is missing (pip install nanobind); mpi4py carries the messages instead")
    target.mkdir(parents=True, exist_ok=True)
    with open(target / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ranks that build at once wait for the first
        if not _is_built():
            _compile(target)
    load.cache_clear()
    return target


def _cmake() -> str | None:
    return shutil.which("cmake") or shutil.which(_beside("cmake"))


def _compile(target: Path) -> None:
    tree, log = target / "build", target / "build.log"
    configure = [_cmake(), "-S", SOURCES, "-B", tree, f"-DPython_EXECUTABLE={sys.executable}", *_flags()]
    with open(log, "w") as out:
        for command in (configure, [_cmake(), "--build", tree, "-j", str(os.cpu_count())]):
            if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode:
                said = next((line for line in log.read_text().splitlines() if "rror" in line), "it said no more")
                raise BuildError(f"the C++ did not build: {said.strip()}; all of it is in {log}")
    for module in tree.rglob(f"*{SUFFIX}"):
        os.replace(module, target / module.name)  # in one step: nobody loads half a file
    shutil.rmtree(tree)


def main() -> int:
    """No compiler is no failure: mpsplit works without."""
    began, there = time.perf_counter(), _is_built()
    try:
        target = build()
    except BuildError as wrong:
        print(wrong)
        return 0 if str(wrong).startswith("not built") else 2
    done = "was built before" if there else f"built in {time.perf_counter() - began:.0f} s"
    module = load()
    if module is None:
        return 2
    transports = ["null", *(name for name in ("mpi", "gloo") if hasattr(module, name))]
    paths = ", ".join(kernels().paths())
    print(f"{target} {done}: between ranks {', '.join(transports)} and shared memory; kernels {paths}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
