"""A program of IREE: machine code and its weights, as a function.

In: .vmfb and .irpa. Out: an IreeProgram, which takes arrays of numpy or of a program before it.

Weights are mapped from the archive, and not copied. All programs of a process share a device.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iree import runtime

from mpsplit.errors import PackageError, RunError

FUNCTION, SCOPE = "main", "stage"  # as the compiler named them
MPIRUN = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
Given = Any  # an array of numpy, or of IREE's device: a DeviceArray


class IreeProgram:
    def __init__(self, code: Path, weights: Path, threads: int, name: str):
        """`name`: for people."""
        self.name = name
        try:
            config = device(threads)
            index = runtime.ParameterIndex()
            index.load(str(weights))
            modules = [
                runtime.create_io_parameters_module(config.vm_instance, index.create_provider(scope=SCOPE)),
                runtime.VmModule.mmap(config.vm_instance, str(code)),
            ]
            self._context = runtime.SystemContext(vm_modules=modules, config=config)
            self._function = self._context.modules.module[FUNCTION]
        except (RuntimeError, ValueError, KeyError) as wrong:
            raise PackageError(f"IREE cannot load {code} ({_first_line(wrong)}); convert the package again") from None

    def __call__(self, *arrays: Given, length: int) -> Sequence[runtime.DeviceArray]:
        """`length`: for people."""
        try:
            found = self._function(*arrays)
        except (RuntimeError, ValueError) as wrong:
            raise RunError(f"{self.name}: IREE failed at a length of {length} ({_first_line(wrong)})") from None
        return found if isinstance(found, tuple | list) else (found,)

    def close(self) -> None:
        del self._function, self._context


@functools.cache
def device(threads: int) -> runtime.Config:
    """One thread computes where it is called; several are IREE's own."""
    with _alone():
        if threads == 1:
            return runtime.Config("local-sync")
        runtime.flags.parse_flags(f"--task_topology_group_count={threads}")
        return runtime.Config("local-task")


@contextmanager
def _alone() -> Iterator[None]:
    """IREE would open an MPI of its own where these say that mpirun started it, and cannot."""
    hidden = {name: os.environ.pop(name) for name in MPIRUN if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _first_line(wrong: Exception) -> str:
    return next(iter(str(wrong).splitlines()), type(wrong).__name__)
