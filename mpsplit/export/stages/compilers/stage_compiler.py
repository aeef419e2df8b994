"""What every compiler of stages can do, and what it is given.

In: a Traced stage with its weights. Out: its files in a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mpsplit.package.stages.built import Built
from mpsplit.package.stages.growing_shapes import Shape, numbers
from mpsplit.package.stages.made_arrays import made
from mpsplit.package.stages.pipeline import FLOAT, Pipeline, Stage
from mpsplit.package.stages.stage_files import StageFiles

VOCABULARY = 2  # whole numbers of a trial are below it: every table has so many rows


@dataclass(frozen=True)
class Traced:
    """A stage or shard as partition left it, with its weights. `stem`: of its files' names,
    `lengths`: two to convert with, one where nothing grows. `weights`: of each attribute of the
    program, its tensor in the checkpoint; `matrices`: that name by the bytes of the tensor."""

    pipeline: Pipeline
    stage: Stage
    stem: str
    program: torch.jit.ScriptModule
    weights: Mapping[str, str]
    matrices: Mapping[bytes, str]
    tables: Mapping[str, np.ndarray]
    lengths: tuple[int, ...]

    @property
    def shapes(self) -> dict[str, tuple[str, Shape]]:
        """Type and shape of what the stage is given, in the order of its graph."""
        values = self.pipeline.values
        given = {name: (values[name].type, values[name].shape) for name in self.stage.inputs}
        return given | {value.name: (value.type, value.shape) for value in self.stage.made}

    def example(self, length: int) -> dict[str, np.ndarray]:
        """Random arrays that the stage may be given."""
        chance, given = np.random.default_rng(0), {}
        made_here = {value.name: value for value in self.stage.made}
        for name, (kind, shape) in self.shapes.items():
            if name in made_here:
                given[name] = made(made_here[name], length, self.tables.get(name))
            elif kind == FLOAT:
                given[name] = chance.standard_normal(numbers(shape, length), np.float32)
            else:
                given[name] = chance.integers(0, VOCABULARY, numbers(shape, length))
        return given

    def outputs(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As the program computes them."""
        with torch.no_grad():
            found = self.program(*(torch.from_numpy(array) for array in given.values()))
        return {name: tensor.numpy() for name, tensor in zip(self.stage.outputs, found, strict=True)}


@dataclass(frozen=True)
class Compiled:
    """`packed`: how many linears are quantised; where some are, `twins` are two folders with the
    stage in float32: with the model's weights, and with the values that were packed."""

    files: StageFiles
    packed: int = 0
    twins: tuple[Path, Path] | None = None


class StageCompiler(Protocol):
    """`made_by`: for people, `tools`: for the manifest, `recipe`: how weights are stored, `built`:
    of every stage."""

    @property
    def made_by(self) -> str: ...

    @property
    def built(self) -> Built: ...

    @property
    def tools(self) -> dict[str, str]: ...

    @property
    def recipe(self) -> str: ...

    def compile(self, traced: Traced, out: Path, scratch: Path) -> Compiled:
        """Writes all files of the stage but its tables; what is in `scratch` goes after the
        trial."""

    def ways(self, inputs: Sequence[str]) -> Iterable[tuple[str, ...]]:
        """Which inputs may keep the axis of the batch: to be tried in this order."""

    def lengths(self, traced: Traced) -> tuple[int, ...]:
        """That the files are tried with."""
