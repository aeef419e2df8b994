"""A stage by pnnx, as ncnn's files.

In: a Traced stage. Out: .param and .bin, and .packed.bin where linears are quantised.

pnnx is given the stage with its true weights. ncnn has no axis for the batch; whether pnnx took it
from an input is found out where the files are tried.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mpsplit.errors import ConvertError
from mpsplit.export.graph.pnnx import Pnnx, run_pnnx, shape_text
from mpsplit.export.stages.compilers.stage_compiler import Compiled, Traced
from mpsplit.export.stages.compilers.stage_graph import Packing, packed
from mpsplit.package.param_text import Param
from mpsplit.package.stages import stage_arrays
from mpsplit.package.stages.built import NCNN, Built
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import FLOAT, Stage
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.package.stored.recipe import Recipe

TYPES = {FLOAT: "f32", "int64": "i64"}


@dataclass(frozen=True)
class NcnnCompiler:
    pnnx: Pnnx
    rules: Recipe = Recipe()
    made_by: str = "pnnx"
    built: Built = Built(NCNN)

    @property
    def tools(self) -> dict[str, str]:
        return {"pnnx": self.pnnx.release, "ncnn": version("ncnn")}

    @property
    def recipe(self) -> str:
        return str(self.rules)

    def compile(self, traced: Traced, out: Path, scratch: Path) -> Compiled:
        script = scratch / f"{traced.stem}.pt"
        traced.program.save(str(script))
        texts = [
            ",".join(shape_text(numbers(shape, length), TYPES[kind]) for kind, shape in traced.shapes.values())
            for length in traced.lengths
        ]
        made = run_pnnx(self.pnnx, script, texts, scratch)
        param = _known(Param.load(made.ncnn_param), traced.stage)
        return self._written(traced, param, made.ncnn_bin, out, scratch)

    def ways(self, inputs: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """None, all, then each choice of a few."""
        few = inputs[:4]
        some = (chosen for n in range(1, len(few)) for chosen in itertools.combinations(few, n))
        return itertools.chain([(), tuple(inputs)], some)

    def lengths(self, traced: Traced) -> tuple[int, ...]:
        return (max(traced.lengths[0] - 2, 1),)

    def _written(self, traced: Traced, param: Param, floats: Path, out: Path, scratch: Path) -> Compiled:
        files = StageFiles.named(traced.stem, packed=False, tables=False)
        if not (self.rules.default.bits or self.rules.rules):
            return _as_it_is(files, param, floats, out)
        packing = Packing(stage_arrays.read(param, floats), traced.matrices, self.rules)
        smaller = packed(param, packing)
        if not packing.count:
            return _as_it_is(files, param, floats, out)
        twins = scratch / "as-it-was", scratch / "rounded"
        for twin in twins:
            twin.mkdir()
        _as_it_is(files, param, floats, twins[0])
        _write(files, param, packing.arrays | packing.rounded, twins[1])
        files = StageFiles.named(traced.stem, tables=False)
        assert files.packed
        _write(files, smaller, packing.arrays, out)
        (out / files.packed).write_bytes(packing.file)
        return Compiled(files, packing.count, twins)


def _as_it_is(files: StageFiles, param: Param, floats: Path, folder: Path) -> Compiled:
    (folder / files.graph).write_text(str(param), encoding="utf-8")
    shutil.copyfile(floats, folder / files.floats)
    return Compiled(files)


def _write(files: StageFiles, param: Param, arrays: stage_arrays.Arrays, folder: Path) -> None:
    (folder / files.graph).write_text(str(param), encoding="utf-8")
    stage_arrays.write(param, arrays, folder / files.floats)


def _known(param: Param, stage: Stage) -> Param:
    """What pnnx found no layer of ncnn for keeps a name of torch's or its own."""
    unknown = [layer.type for layer in param.layers if "." in layer.type or layer.type[:1].islower()]
    if unknown:
        raise ConvertError(
            f"stage {stage.name}: ncnn has no layer for {', '.join(dict.fromkeys(unknown))}; fix the length with"
            " --length N if it grows, or cut the model elsewhere"
        )
    return param
