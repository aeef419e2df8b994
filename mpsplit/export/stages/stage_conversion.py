"""One stage or shard, from what partition left to ncnn's files, and the proof that they compute the
same.

In: a Shell, the checkpoint. Out: files of the stage, and how far they are from the program.

pnnx is given the stage with its true weights. What it made is tried on random inputs against the
TorchScript itself: so each stage is known to be right when it is converted. ncnn has no axis for
the batch; whether pnnx took it from an input is found out in the same trial.

Invariant: the weights of one stage are in memory, never the model's.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mpsplit.errors import ConvertError
from mpsplit.export.graph.pnnx import Pnnx, run_pnnx, shape_text
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.stages.stage_graph import Packing, packed
from mpsplit.export.stages.stage_shell import Shell
from mpsplit.package.param_text import Param
from mpsplit.package.stages import stage_arrays
from mpsplit.package.stages.growing_shapes import Shape, numbers
from mpsplit.package.stages.made_arrays import made
from mpsplit.package.stages.pipeline import FLOAT, Pipeline, Stage
from mpsplit.package.stages.sharded_part import ZEROS
from mpsplit.package.stages.stage_files import StageFiles, shell_names
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.cuts import Part
from mpsplit.plan.shards import Range
from mpsplit.plan.stages.index_lists import runs_of

# pipeline, stage, folder, its files, inputs, length -> outputs; None where it ended the process
TryOut = Callable[[Pipeline, Stage, Path, StageFiles, Mapping[str, np.ndarray], int], dict[str, np.ndarray] | None]
TYPES = {FLOAT: "f32", "int64": "i64"}
TOLERANCE = {False: 1e-3, True: 0.5}  # of the largest number of an output; of packed weights the second
FEW_RUNS = 32  # of columns, which are read row by row; where there are more, all is read
VOCABULARY = 2  # whole numbers of a trial are below it: every table has so many rows


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
    pnnx: Pnnx,
    recipe: Recipe,
    try_out: TryOut,
) -> ConvertedStage:
    """`home`: the rank's folder of the partition; `out`: where the files go, `stem`: of their
    names."""
    shell = Shell.load(home, stem)
    program, names = _filled(home / shell_names(stem).script, shell, checkpoint)
    shapes = _shapes(pipeline, stage)
    with tempfile.TemporaryDirectory(dir=out, prefix=".stage-") as scratch:
        script = Path(scratch, f"{stem}.pt")
        program.save(str(script))
        texts = [
            ",".join(shape_text(numbers(shape, length), TYPES[kind]) for kind, shape in shapes.values())
            for length in shell.lengths
        ]
        made = run_pnnx(pnnx, script, texts, Path(scratch))
        param = _known(Param.load(made.ncnn_param), stage)
        files, count = _written(stem, param, made.ncnn_bin, names, recipe, home, out)
    stage, error = _tried(
        pipeline, stage, out, files, program, shapes, max(shell.lengths[0] - 2, 1), bool(count), try_out
    )
    return ConvertedStage(stage, files, error, count)


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


def _shapes(pipeline: Pipeline, stage: Stage) -> dict[str, tuple[str, Shape]]:
    """Type and shape of what the stage is given, in the order of its graph."""
    given = {name: (pipeline.values[name].type, pipeline.values[name].shape) for name in stage.inputs}
    return given | {value.name: (value.type, value.shape) for value in stage.made}


def _known(param: Param, stage: Stage) -> Param:
    """What pnnx found no layer of ncnn for keeps a name of torch's or its own."""
    unknown = [layer.type for layer in param.layers if "." in layer.type or layer.type[:1].islower()]
    if unknown:
        raise ConvertError(
            f"stage {stage.name}: ncnn has no layer for {', '.join(dict.fromkeys(unknown))}; fix the length with"
            " --length N if it grows, or cut the model elsewhere"
        )
    return param


def _written(
    stem: str, param: Param, floats: Path, names: dict[bytes, str], recipe: Recipe, home: Path, out: Path
) -> tuple[StageFiles, int]:
    """The stage's files, and how many linears are packed."""
    everything = StageFiles.named(stem)
    assert everything.packed and everything.tables
    packing = None
    if recipe.default.bits or recipe.rules:
        packing = Packing(stage_arrays.read(param, floats), names, recipe)
        param = packed(param, packing)
    (out / everything.graph).write_text(str(param), encoding="utf-8")
    if packing and packing.count:
        stage_arrays.write(param, packing.arrays, out / everything.floats)
        (out / everything.packed).write_bytes(packing.file)
    else:
        shutil.copyfile(floats, out / everything.floats)
    if has_tables := (home / everything.tables).is_file():
        shutil.copyfile(home / everything.tables, out / everything.tables)
    count = packing.count if packing else 0
    return StageFiles.named(stem, bool(count), has_tables), count


def _tried(
    pipeline: Pipeline,
    stage: Stage,
    out: Path,
    files: StageFiles,
    program: torch.jit.ScriptModule,
    shapes: dict[str, tuple[str, Shape]],
    length: int,
    is_packed: bool,
    try_out: TryOut,
) -> tuple[Stage, float]:
    """The stage with the inputs that keep the axis of the batch, and how far it is off."""
    tables = dict(np.load(out / files.tables, allow_pickle=False)) if files.tables else {}
    given = _example(stage, shapes, length, tables)
    with torch.no_grad():
        wanted = program(*(torch.from_numpy(array) for array in given.values()))
    expected = {name: tensor.numpy() for name, tensor in zip(stage.outputs, wanted, strict=True)}
    inputs = {name: given[name] for name in stage.inputs}
    best = stage, float("inf")
    for whole in _ways(list(shapes)):
        candidate = replace(stage, whole=whole)
        found = try_out(pipeline, candidate, out, files, inputs, length)
        error = float("inf") if found is None else _error(found, expected)
        if error < best[1]:
            best = candidate, error
        if best[1] <= TOLERANCE[False] or (is_packed and best[1] <= TOLERANCE[True]):
            return best
    raise ConvertError(
        f"stage {stage.name}: what pnnx made of it is {best[1]:.2g} of the largest number off; cut the model elsewhere"
        " (--stages), or leave --quant out"
    )


def _ways(inputs: Sequence[str]) -> list[tuple[str, ...]]:
    """Which inputs may keep the axis: none, all, then each choice of a few."""
    few = inputs[:4]
    some = [tuple(chosen) for n in range(1, len(few)) for chosen in itertools.combinations(few, n)]
    return [(), tuple(inputs), *some]


def _example(
    stage: Stage, shapes: dict[str, tuple[str, Shape]], length: int, tables: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    chance, given = np.random.default_rng(0), {}
    made_here = {value.name: value for value in stage.made}
    for name, (kind, shape) in shapes.items():
        if name in made_here:
            given[name] = made(made_here[name], length, tables.get(name))
        elif kind == FLOAT:
            given[name] = chance.standard_normal(numbers(shape, length), np.float32)
        else:
            given[name] = chance.integers(0, VOCABULARY, numbers(shape, length))
    return given


def _error(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    errors = []
    for name, array in expected.items():
        if found[name].shape != array.shape or not np.isfinite(found[name]).all():
            return float("inf")
        errors.append(float(np.abs(found[name] - array).max() / max(float(np.abs(array).max()), 1e-30)))
    return max(errors, default=0.0)
