"""One stage in IREE: arrays in, arrays out.

In: the files of a stage: .vmfb, machine code, and .irpa, its weights. Out: an IreeNet.

Weights are mapped from the archive, and not copied. All nets of a process share a device.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from iree import runtime

from mpsplit.errors import PackageError, RunError
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import Pipeline, Stage
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.runtime.pipeline.nets.given import Given
from mpsplit.runtime.pipeline.nets.stage_net import Arrays, Together

FUNCTION, SCOPE = "main", "stage"  # as the compiler named them
MPIRUN = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class IreeNet:
    def __init__(self, pipeline: Pipeline, stage: Stage, folder: Path, files: StageFiles, threads: int):
        self.stage, self.values = stage, pipeline.values
        self.given = Given(stage, folder, files)
        assert files.program, "every stage of IREE has a program"
        try:
            config = device(threads)
            weights = runtime.ParameterIndex()
            weights.load(str(folder / files.floats))
            provider = weights.create_provider(scope=SCOPE)
            modules = [
                runtime.create_io_parameters_module(config.vm_instance, provider),
                runtime.VmModule.mmap(config.vm_instance, str(folder / files.program)),
            ]
            self.context = runtime.SystemContext(vm_modules=modules, config=config)
            self.function = self.context.modules.module[FUNCTION]
        except (RuntimeError, ValueError, KeyError) as wrong:
            raise PackageError(
                f"IREE cannot load {folder / files.program} ({_first_line(wrong)}); convert the package again"
            ) from None

    def run(self, given: Arrays, length: int, together: Together | None = None) -> dict[str, np.ndarray]:
        arrays = [np.ascontiguousarray(self.given.array(name, given, length)) for name in self.given.names]
        try:
            found = self.function(*arrays)
        except (RuntimeError, ValueError) as wrong:
            raise RunError(
                f"stage {self.stage.name}: IREE failed at a length of {length} ({_first_line(wrong)})"
            ) from None
        several = found if isinstance(found, tuple | list) else (found,)
        outputs = {name: array.to_host() for name, array in zip(self.stage.outputs, several, strict=True)}
        for name, array in outputs.items():
            shape = numbers(self.values[name].shape, length)
            if array.shape != shape:
                raise RunError(f"stage {self.stage.name} gave {list(array.shape)} for {name}, which is {list(shape)}")
        return outputs

    def close(self) -> None:
        del self.function, self.context


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
