"""One stage in IREE: arrays in, arrays out.

In: the files of a stage: .vmfb, machine code, and .irpa, its weights. Out: an IreeNet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpsplit.errors import RunError
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import Pipeline, Stage
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.runtime.iree.iree_program import IreeProgram
from mpsplit.runtime.pipeline.nets.given import Given
from mpsplit.runtime.pipeline.nets.stage_net import Arrays, Together


class IreeNet:
    def __init__(self, pipeline: Pipeline, stage: Stage, folder: Path, files: StageFiles, threads: int):
        self.stage, self.values = stage, pipeline.values
        self.given = Given(stage, folder, files)
        assert files.program, "every stage of IREE has a program"
        self.program = IreeProgram(folder / files.program, folder / files.floats, threads, f"stage {stage.name}")

    def run(self, given: Arrays, length: int, together: Together | None = None) -> dict[str, np.ndarray]:
        arrays = [np.ascontiguousarray(self.given.array(name, given, length)) for name in self.given.names]
        found = self.program(*arrays, length=length)
        outputs = {name: array.to_host() for name, array in zip(self.stage.outputs, found, strict=True)}
        for name, array in outputs.items():
            shape = numbers(self.values[name].shape, length)
            if array.shape != shape:
                raise RunError(f"stage {self.stage.name} gave {list(array.shape)} for {name}, which is {list(shape)}")
        return outputs

    def close(self) -> None:
        self.program.close()
