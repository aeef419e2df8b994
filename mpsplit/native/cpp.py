"""Finds the C++ of extensions/ that was built for this machine:

`load()` imports it, `python -m mpsplit.native` builds it (building.py).

In: extensions/, third_party/, a compiler. Out: modules, and the operators of the torch that is
there, in ~/.cache/mpsplit/KEY (or MPSPLIT_CACHE/KEY), where KEY is a hash of the sources, the
compiler, the flags, the processor, this Python and its torch: what fits no more is never loaded.
What third_party/ pins is built once, into a folder of its own. Nothing is built by importing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Literal, overload

from mpsplit.cache_folder import cache
from mpsplit.errors import MpsplitError
from mpsplit.native.third_party import PINS, Pin

SOURCES = Path(__file__).parents[2] / "extensions"
MODULES = ("_comm", "_kernels", "_choose", "_engine")
# no module: torch.ops.load_library loads it, where there is a torch
TORCH_LIBRARY = "libmpi_extensions.so"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


class BuildError(MpsplitError):
    """The C++ could not be built here; everything also works without it, slower."""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++"))


def flags() -> list[str]:
    return ["-DMPSPLIT_PORTABLE=ON"] if os.environ.get("MPSPLIT_PORTABLE") == "1" else []


def torch_version() -> Path | None:
    """torch's version.py, which tells builds apart, found without importing torch; None on a
    worker."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return version if version and version.exists() else None


def processor() -> str:
    """What -march=native depends on: a cache on a shared disk serves machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return platform.machine() + next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


@functools.cache
def _compiler_version() -> str:
    program = compiler()
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout if program else ""


def _digest(texts: list[str], root: Path, *suffixes: str) -> str:
    """Changes with the texts, the compiler, and the files under `root` that have one of the
    suffixes."""
    digest = hashlib.sha256()
    for text in (_compiler_version(), processor(), *flags(), *texts):
        digest.update(text.encode() + b"\0")
    for path in sorted(p for p in root.rglob("*") if p.suffix in suffixes and p.is_file() and not _is_test(p)):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _is_test(path: Path) -> bool:
    """What the tests alone build."""
    return path.stem.endswith("_test") or path.parent.name == "fuzz"


@functools.cache
def key() -> str:
    """Changes when what is built would."""
    libraries = [str(Path(path).exists()) for path in ("/usr/include/gloo/context.h", beside("mpicxx"))]
    torch = torch_version()
    texts = [SUFFIX, sys.prefix, *libraries, ncnn_key(), torch.read_text(encoding="utf-8") if torch else ""]
    return _digest(texts, SOURCES, ".h", ".cpp", ".txt")


@functools.cache
def ncnn_key() -> str:
    return _digest([], PINS / "ncnn", "", ".txt")


def beside(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def folder() -> Path:
    return cache() / key()


def _module_path(name: str) -> Path:
    return folder() / f"{name}{SUFFIX}"


def is_built() -> bool:
    torch = torch_library() is not None or torch_version() is None
    return torch and all(_module_path(name).exists() for name in MODULES)


def torch_library() -> Path | None:
    """The operators of extensions/torch, or None when they were not built."""
    path = folder() / TORCH_LIBRARY
    return path if path.exists() else None


@functools.cache
def pnnx_key() -> str:
    """Changes when pnnx would, and with the folder of torch, which is written in it."""
    torch = torch_version()
    return _digest([str(torch), torch.read_text(encoding="utf-8") if torch else ""], PINS / "pnnx", "", ".txt")


def pnnx_program() -> Path:
    """pnnx on the torch that is here, where `./launch/setup pnnx` builds it."""
    return cache() / f"pnnx-{pnnx_key()}" / "pnnx"


@overload
def kernels(required: Literal[True] = True) -> ModuleType: ...
@overload
def kernels(required: bool) -> ModuleType | None: ...
def kernels(required: bool = True) -> ModuleType | None:
    """The quantised linear layers of extensions/kernels."""
    module = load("_kernels")
    if module is None and required:
        raise BuildError(
            "bfloat16 and 8, 6 or 4 bits need the kernels, which are not built here; run `python -m mpsplit.native` "
            "(it says what is missing), or convert with --quant f32"
        )
    return module


def built() -> list[str]:
    """What is there, told to people; empty when nothing is."""
    comm, kernels = load("_comm"), load("_kernels")
    if comm is None or kernels is None:
        return []
    transports = ", ".join(name for name in ("mpi", "gloo") if hasattr(comm, name))
    parts = [f"{transports}, shared memory" if transports else "shared memory", f"kernels {', '.join(kernels.paths())}"]
    if load("_engine"):
        parts.append(f"native engine on ncnn {Pin.of('ncnn').version}")
    if torch_library():
        parts.append("torch operators")
    return [*parts, f"by {_compiler_version().splitlines()[0]}"] if _compiler_version() else parts


def say_it_does_not_load(path: Path, wrong: Exception) -> None:
    print(f"mpsplit: {path} does not load ({wrong}); remove {path.parent} and build again", file=sys.stderr)


def forget() -> None:
    """What was looked for before it was built is looked for again."""
    _import.cache_clear()


def load(name: str = "_comm") -> ModuleType | None:
    """The module, or None when it was not built."""
    if name == "_engine" and load("_comm") is None:  # which has the types that it takes
        return None
    return _import(name)


@functools.cache
def _import(name: str) -> ModuleType | None:
    path = _module_path(name)
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, f"{path} is no module"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as wrong:  # a library that it was linked with has gone
        say_it_does_not_load(path, wrong)
        return None
    return module
