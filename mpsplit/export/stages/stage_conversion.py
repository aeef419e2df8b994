"""One stage or shard, from what partition left to a compiler's files, and the proof that they
compute the same.

In: a Shell, the checkpoint, a compiler. Out: files of the stage, and how far they are from the
program.

What was compiled is tried on random inputs against the TorchScript itself: so each stage is known
to be right when it is converted. Where linears are packed, the same graph is tried before they are,
and what came of them against that graph with the values that were packed.

Invariant: the weights of one stage are in memory, never the model's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsplit.errors import ConvertError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.stages.compilers.stage_compiler import Compiled, StageCompiler, Traced
from mpsplit.export.stages.stage_shell import Shell
from mpsplit.package.stages.pipeline import Pipeline, Stage
from mpsplit.package.stages.sharded_part import ZEROS
from mpsplit.package.stages.stage_files import StageFiles, shell_names, tables_name
from mpsplit.plan.cuts import Part
from mpsplit.plan.shards import Range
from mpsplit.plan.stages.index_lists import runs_of

# pipeline, stage, folder, its files, inputs, length -> outputs; None where it ended the process
TryOut = Callable[[Pipeline, Stage, Path, StageFiles, Mapping[str, np.ndarray], int], dict[str, np.ndarray] | None]
Found = Mapping[int, Mapping[str, np.ndarray] | None]  # by the length
# of the largest number of an output: sums in another order; inputs of linears, rounded to 8 bits:
# 0.02 was seen at most, in any kind
EXACT, INPUTS = 1e-3, 0.05
FEW_RUNS = 32  # of columns, which are read row by row; where there are more, all is read


@dataclass(frozen=True)
class ConvertedStage:
    """`error`: the largest difference of an output from the program's, over its largest number."""

    stage: Stage
    files: StageFiles
    error: float
    packed: int


def convert_stage(
    pipeline: Pipeline,
    stage: Stage,
    stem: str,
    home: Path,
    out: Path,
    checkpoint: Checkpoint,
    compiler: StageCompiler,
    try_out: TryOut,
) -> ConvertedStage:
    """`home`: the rank's folder of the partition; `out`: where the files go, `stem`: of their
    names."""
    traced = _traced(pipeline, replace(stage, built=compiler.built), stem, home, checkpoint)
    with tempfile.TemporaryDirectory(dir=out, prefix=".stage-") as scratch:
        compiled = compiler.compile(traced, out, Path(scratch))
        if traced.tables:
            compiled = replace(compiled, files=replace(compiled.files, tables=tables_name(stem)))
            for folder in (out, *(compiled.twins or ())):
                shutil.copyfile(home / tables_name(stem), folder / tables_name(stem))
        converted, error = Trial(traced, compiler, try_out).of(compiled, out)
    return ConvertedStage(converted, compiled.files, error, compiled.packed)


def _traced(pipeline: Pipeline, stage: Stage, stem: str, home: Path, checkpoint: Checkpoint) -> Traced:
    shell, path = Shell.load(home, stem), home / tables_name(stem)
    tables = dict(np.load(path, allow_pickle=False)) if path.is_file() else {}
    program, matrices = _filled(home / shell_names(stem).script, shell, checkpoint)
    return Traced(pipeline, stage, stem, program, shell.weights, matrices, tables, shell.lengths)


def _filled(script: Path, shell: Shell, checkpoint: Checkpoint) -> tuple[torch.jit.ScriptModule, dict[bytes, str]]:
    """The program with its weights, and the tensor of each matrix by its bytes."""
    program, names = torch.jit.load(str(script)), {}
    for name, parameter in program.named_parameters():
        tensor = shell.weights[name]
        values = _entries(checkpoint, tensor, shell.entries.get(name))
        names[values.tobytes()] = tensor
        parameter.data = torch.from_numpy(values)
    return program, names


def _entries(checkpoint: Checkpoint, tensor: str, cut: tuple[int, list[int]] | None) -> np.ndarray:
    """A tensor, or those of its entries along an axis that a shard has: of a few runs, only they
    are read."""
    if cut is None:
        return checkpoint.floats(tensor)
    axis, entries = cut
    indices = np.array(entries)
    runs = runs_of(indices[indices != ZEROS])
    if axis < 2 and (axis == 0 or len(runs) <= FEW_RUNS):
        spans = zip(runs[::2], runs[1::2], strict=True)
        read = [_read(checkpoint, tensor, axis, first, last + 1) for first, last in spans]
        real = np.concatenate(read, axis)
    else:
        real = np.take(checkpoint.floats(tensor), indices[indices != ZEROS], axis)
    shape = (*real.shape[:axis], len(indices), *real.shape[axis + 1 :])
    values = np.zeros(shape, np.float32)
    values[(slice(None),) * axis + (indices != ZEROS,)] = real
    return values


def _read(checkpoint: Checkpoint, tensor: str, axis: int, start: int, stop: int) -> np.ndarray:
    return checkpoint.floats(tensor, Part(axis, Range(start, stop)))


class Trial:
    """Of files of one stage, on the same random inputs; what they give by the length."""

    def __init__(self, traced: Traced, compiler: StageCompiler, try_out: TryOut):
        self.traced, self.compiler, self.try_out = traced, compiler, try_out
        self.given = {length: traced.example(length) for length in compiler.lengths(traced)}
        self.expected = {length: traced.outputs(arrays) for length, arrays in self.given.items()}

    def of(self, compiled: Compiled, out: Path) -> tuple[Stage, float]:
        """The stage with the inputs that keep the axis of the batch, and how far it is off."""
        if not compiled.twins:
            return self._against_the_program(out, compiled.files)
        unpacked = replace(compiled.files, packed=None)
        as_it_was, rounded = compiled.twins
        stage, _ = self._against_the_program(as_it_was, unpacked)
        found = self._run(stage, out, compiled.files)
        apart = _farthest(found, self._run(stage, rounded, unpacked))
        if not apart <= INPUTS:
            raise ConvertError(
                f"stage {stage.name}: packed, it is {apart:.2g} of the largest number off the same values in float32,"
                f" {INPUTS:g} is allowed; leave --quant out, and report it"
            )
        return stage, _farthest(found, self.expected)

    def _against_the_program(self, folder: Path, files: StageFiles) -> tuple[Stage, float]:
        least = float("inf")
        for whole in self.compiler.ways(tuple(self.traced.shapes)):
            stage = replace(self.traced.stage, whole=whole)
            error = _farthest(self._run(stage, folder, files), self.expected)
            if error <= EXACT:
                return stage, error
            least = min(least, error)
        raise ConvertError(
            f"stage {self.traced.stage.name}: what {self.compiler.made_by} made of it is {least:.2g} of the largest"
            " number off; cut the model elsewhere (--stages)"
        )

    def _run(self, stage: Stage, folder: Path, files: StageFiles) -> Found:
        return {
            length: self.try_out(
                self.traced.pipeline, stage, folder, files, {name: arrays[name] for name in stage.inputs}, length
            )
            for length, arrays in self.given.items()
        }


def _farthest(found: Found, expected: Found) -> float:
    """Over all lengths; infinite where one ended the process."""
    errors = []
    for length, arrays in expected.items():
        here = found[length]
        errors.append(float("inf") if here is None or arrays is None else _error(here, arrays))
    return max(errors)


def _error(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    errors = []
    for name, array in expected.items():
        if found[name].shape != array.shape or not np.isfinite(found[name]).all():
            return float("inf")
        errors.append(float(np.abs(found[name] - array).max() / max(float(np.abs(array).max()), 1e-30)))
    return max(errors, default=0.0)
