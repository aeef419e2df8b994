"""A stage by torch-mlir's importer and IREE.

In: a Traced stage. Out: .mlir, the graph to read; .vmfb, machine code; .irpa, its weights.

Code is for the processor that compiles. Stages with equal graphs, as the layers of a model have
them, are compiled once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mpsplit.errors import ConvertError
from mpsplit.export.stages.compilers.replayed import exported
from mpsplit.export.stages.compilers.stage_compiler import Compiled, Traced
from mpsplit.package.stages.built import IREE, Built
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.package.stored.recipe import Recipe

if TYPE_CHECKING:  # it needs the compiler, whose lack is told first
    from mpsplit.export.stages.compilers.stage_mlir import StageMlir

PACKAGES = {"iree.compiler": "iree-base-compiler", "iree.runtime": "iree-base-runtime"}
FLAGS = ("--iree-llvmcpu-target-cpu=host",)
EMPTY = "func.func @f(%x: tensor<1xf32>) -> tensor<1xf32> { return %x : tensor<1xf32> }"


class IreeCompiler:
    def __init__(self, more: tuple[str, ...] = ()) -> None:
        """`more`: flags of iree-compile."""
        for module, package in PACKAGES.items():
            if not (find_spec("iree") and find_spec(module)):
                raise ConvertError(f"--compiler iree: {package} is not installed; pip install 'mpsplit[iree]'")
        self.made_by, self.flags = "IREE", (*FLAGS, *more)
        self.built = Built.here(IREE, _features())
        self.recipe = str(Recipe())
        self.tools = {"iree": version("iree-base-compiler")}
        self.programs: dict[str, bytes] = {}  # of MLIR

    def compile(self, traced: Traced, out: Path, scratch: Path) -> Compiled:
        files = StageFiles.named(traced.stem, packed=False, tables=False, compiler=IREE)
        assert files.program
        examples = map(torch.from_numpy, traced.example(traced.lengths[0]).values())
        shapes = [shape for _, shape in traced.shapes.values()]
        made = self.lowered(f"stage {traced.stage.name}", lambda: exported(traced.program, examples, shapes))
        origins = {name: traced.weights.get(origin, origin) for name, origin in made.origins.items()}
        write_graph(out / files.graph, made.text, origins)
        (out / files.program).write_bytes(self.program(made.text, f"stage {traced.stage.name}"))
        write_archive(out / files.floats, made.arrays)
        return Compiled(files)

    def ways(self, inputs: Sequence[str]) -> Iterable[tuple[str, ...]]:
        return [()]

    def lengths(self, traced: Traced) -> tuple[int, ...]:
        """Also one, which torch.export takes for a case of its own."""
        return tuple({max(traced.lengths[0] - 2, 1): None, 1: None})

    def lowered(self, what: str, export: Callable[[], torch.export.ExportedProgram]) -> StageMlir:
        """`what`: for people."""
        from mpsplit.export.stages.compilers.stage_mlir import stage_mlir

        try:
            return stage_mlir(export())
        except (NotImplementedError, RuntimeError, ValueError) as wrong:
            raise _refused(what, wrong) from wrong

    def program(self, text: str, what: str) -> bytes:
        if text not in self.programs:
            self.programs[text] = _compiled(text, self.flags, what)
        return self.programs[text]


def write_graph(path: Path, text: str, origins: Mapping[str, str]) -> None:
    """For people: it begins with which tensor of the checkpoint each array is."""
    told = "".join(f"// {name}: {origin}\n" for name, origin in origins.items())
    path.write_text(told + text, encoding="utf-8")


def write_archive(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from iree.runtime import ParameterIndex
    from iree.runtime.io import parameter_index_add_numpy_ndarray

    index = ParameterIndex()
    for name, array in arrays.items():
        parameter_index_add_numpy_ndarray(index, name, array)
    index.create_archive_file(str(path))
    path.chmod(path.parent.stat().st_mode & 0o666)  # IREE's own is narrower


def _compiled(text: str, flags: Sequence[str], what: str) -> bytes:
    from iree.compiler import tools

    try:
        return tools.compile_str(text, input_type="torch", target_backends=["llvm-cpu"], extra_args=list(flags))
    except tools.CompilerToolError as wrong:
        raise _refused(what, wrong) from wrong


def _refused(what: str, wrong: Exception) -> ConvertError:
    lines = str(wrong).splitlines()
    why = next((line for line in lines if "error:" in line), lines[0] if lines else type(wrong).__name__)
    return ConvertError(f"{what}: IREE cannot compile it ({why.strip()[:300]}); use --compiler ncnn")


def _features() -> list[str]:
    """Of this processor, those that the compiler uses."""
    from iree.compiler import tools

    text = tools.compile_str(EMPTY, target_backends=["llvm-cpu"], extra_args=[*FLAGS, "--compile-to=flow"]).decode()
    found = re.search(r'cpu_features = "([^"]*)"', text)
    return [word[1:] for word in (found[1] if found else "").split(",") if word.startswith("+")]
