"""A stage by pnnx, as ncnn's files.

In: a Traced stage. Out: .param and .bin, and .packed.bin where linears are quantised.

pnnx is given the stage with its true weights. ncnn has no axis for the batch; whether pnnx took it
from an input is found out where the files are tried.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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

    def compile(self, traced: Traced, out: Path) -> Compiled:
        with tempfile.TemporaryDirectory(dir=out, prefix=".stage-") as scratch:
            script = Path(scratch, f"{traced.stem}.pt")
            traced.program.save(str(script))
            texts = [
                ",".join(shape_text(numbers(shape, length), TYPES[kind]) for kind, shape in traced.shapes.values())
                for length in traced.lengths
            ]
            made = run_pnnx(self.pnnx, script, texts, Path(scratch))
            param = _known(Param.load(made.ncnn_param), traced.stage)
            return self._written(traced.stem, param, made.ncnn_bin, traced.matrices, out)

    def ways(self, inputs: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """None, all, then each choice of a few."""
        few = inputs[:4]
        some = (chosen for n in range(1, len(few)) for chosen in itertools.combinations(few, n))
        return itertools.chain([(), tuple(inputs)], some)

    def lengths(self, traced: Traced) -> tuple[int, ...]:
        return (max(traced.lengths[0] - 2, 1),)

    def _written(self, stem: str, param: Param, floats: Path, names: Mapping[bytes, str], out: Path) -> Compiled:
        everything = StageFiles.named(stem)
        assert everything.packed
        packing = None
        if self.rules.default.bits or self.rules.rules:
            packing = Packing(stage_arrays.read(param, floats), names, self.rules)
            param = packed(param, packing)
        (out / everything.graph).write_text(str(param), encoding="utf-8")
        if packing and packing.count:
            stage_arrays.write(param, packing.arrays, out / everything.floats)
            (out / everything.packed).write_bytes(packing.file)
        else:
            shutil.copyfile(floats, out / everything.floats)
        count = packing.count if packing else 0
        return Compiled(StageFiles.named(stem, bool(count), tables=False), count)


def _known(param: Param, stage: Stage) -> Param:
    """What pnnx found no layer of ncnn for keeps a name of torch's or its own."""
    unknown = [layer.type for layer in param.layers if "." in layer.type or layer.type[:1].islower()]
    if unknown:
        raise ConvertError(
            f"stage {stage.name}: ncnn has no layer for {', '.join(dict.fromkeys(unknown))}; fix the length with"
            " --length N if it grows, or cut the model elsewhere"
        )
    return param
