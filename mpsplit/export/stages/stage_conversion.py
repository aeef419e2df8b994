"""One stage or shard, from what partition left to a compiler's files, and the proof that they
compute the same.

In: a Shell, the checkpoint, a compiler. Out: files of the stage, and how far they are from the
program.

What was compiled is tried on random inputs against the TorchScript itself: so each stage is known
to be right when it is converted.

Invariant: the weights of one stage are in memory, never the model's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsplit.errors import ConvertError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.stages.compilers.stage_compiler import StageCompiler, Traced
from mpsplit.export.stages.stage_shell import Shell
from mpsplit.package.stages.pipeline import Pipeline, Stage
from mpsplit.package.stages.sharded_part import ZEROS
from mpsplit.package.stages.stage_files import StageFiles, shell_names, tables_name
from mpsplit.plan.cuts import Part
from mpsplit.plan.shards import Range
from mpsplit.plan.stages.index_lists import runs_of

# pipeline, stage, folder, its files, inputs, length -> outputs; None where it ended the process
TryOut = Callable[[Pipeline, Stage, Path, StageFiles, Mapping[str, np.ndarray], int], dict[str, np.ndarray] | None]
TOLERANCE = {False: 1e-3, True: 0.5}  # of the largest number of an output; of packed weights the second
FEW_RUNS = 32  # of columns, which are read row by row; where there are more, all is read


@dataclass(frozen=True)
class ConvertedStage:
    """`error`: the largest difference of an output, over its largest number."""

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
    compiled = compiler.compile(traced, out)
    files = compiled.files
    if traced.tables:
        files = replace(files, tables=tables_name(stem))
        shutil.copyfile(home / tables_name(stem), out / tables_name(stem))
    converted, error = _tried(traced, compiler, out, files, bool(compiled.packed), try_out)
    return ConvertedStage(converted, files, error, compiled.packed)


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


def _tried(
    traced: Traced, compiler: StageCompiler, out: Path, files: StageFiles, is_packed: bool, try_out: TryOut
) -> tuple[Stage, float]:
    """The stage with the inputs that keep the axis of the batch, and how far it is off."""
    stage, limit = traced.stage, TOLERANCE[is_packed]
    best = stage, float("inf")
    given = {length: traced.example(length) for length in compiler.lengths(traced)}
    expected = {length: traced.outputs(arrays) for length, arrays in given.items()}
    for whole in compiler.ways(tuple(traced.shapes)):
        candidate, errors = replace(stage, whole=whole), []
        for length, arrays in given.items():
            inputs = {name: arrays[name] for name in stage.inputs}
            found = try_out(traced.pipeline, candidate, out, files, inputs, length)
            errors.append(_error(found, expected[length]) if found else float("inf"))
        if (error := max(errors)) < best[1]:
            best = candidate, error
        if best[1] <= limit:
            return best
    raise ConvertError(
        f"stage {stage.name}: what {compiler.made_by} made of it is {best[1]:.2g} of the largest number off; cut the"
        " model elsewhere (--stages), or leave --quant out"
    )


def _error(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    errors = []
    for name, array in expected.items():
        if found[name].shape != array.shape or not np.isfinite(found[name]).all():
            return float("inf")
        errors.append(float(np.abs(found[name] - array).max() / max(float(np.abs(array).max()), 1e-30)))
    return max(errors, default=0.0)
