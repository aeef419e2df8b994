"""Runs pnnx on one TorchScript file.

In: NAME-R.pt. Out: pnnx.param, ncnn.param and ncnn.bin in a folder, and a log.

Invariant: a run that fails is an error with its cause, or pnnx's last lines, and the path of the
whole log.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from mpsplit import leash
from mpsplit.errors import ConvertError
from mpsplit.export.trace.trace_inputs import Example
from mpsplit.native import cpp
from mpsplit.native.third_party import Pin
from mpsplit.package.collectives import COLLECTIVES, NAMESPACE
from mpsplit.package.whole_files import sha256

BUILD = "`./launch/setup pnnx` builds one on this torch"
# what pnnx prints before it fails in a later line -> what it means
CAUSES = {
    r"dlopen (?P<what>\S+) failed (?P<why>.*)": (
        "it cannot load {what} ({why}); the library must be built on the libtorch that pnnx is built on: " + BUILD
    ),
    r"Unknown builtin op: (?P<what>[\w:]+\w)": (
        "it does not know the operator {what}; --customop takes a library that defines it on the libtorch that pnnx is"
        " built on (given: {library}): " + BUILD
    ),
}


@dataclass(frozen=True)
class Pnnx:
    """The program, and the operator library for the customop route ("" for the moduleop route)."""

    program: str
    customop: str = ""

    @property
    def form(self) -> str:
        """The form of TorchScript that this route reads (torchscript.FORMS)."""
        return "operator" if self.customop else "module"

    @property
    def release(self) -> str:
        """What a manifest calls it."""
        program = Path(self.program)
        if program == cpp.pnnx_program():
            pin = Pin.of("pnnx")
            return f"{pin.name} {pin.version}"
        return version("pnnx") if program == _installed() else f"sha256 {sha256(program)[:16]}"


def find_pnnx(program: str | None = None, customop: str | None = None, form: str = "module") -> Pnnx:
    """`form`: of what it is to read; operators are for the pnnx that was built here, with the
    library that was, unless others are named."""
    if customop and not Path(customop).is_file():
        raise ConvertError(f"--customop {customop}: there is no such library")
    if customop or form == "operator":
        return _of_operators(program, customop)
    path = shutil.which(program or str(_installed() or "pnnx"))
    if not path:
        raise ConvertError(
            f"pnnx was not found{f' at {program}' if program else ''}; install it with `pip install pnnx` or give"
            " --pnnx PATH"
        )
    return Pnnx(path)


def _of_operators(program: str | None, customop: str | None) -> Pnnx:
    built = cpp.pnnx_program()
    path = shutil.which(program or built)
    if not path:
        raise ConvertError(
            f"no pnnx that reads operators at {program}; {BUILD}"
            if program
            else f"a pnnx that reads operators is not built here; {BUILD}, or give --pnnx PATH"
        )
    library = customop or cpp.torch_library()
    if not library:
        raise ConvertError("the torch operators are not built here; run `python -m mpsplit.native`, or give --customop")
    return Pnnx(path, str(Path(library).resolve()))


def _installed() -> Path | None:
    """The program of PyPI's package; the script beside Python imports torch first, and leaves it
    behind when it is killed."""
    found = find_spec("pnnx")
    folders = found.submodule_search_locations if found else None
    return Path(folders[0]) / "pnnx" if folders else None


@dataclass(frozen=True)
class Converted:
    pnnx_param: Path
    ncnn_param: Path
    ncnn_bin: Path


def run_pnnx(pnnx: Pnnx, script: Path, inputs: Sequence[str], folder: Path) -> Converted:
    """`inputs`: the shapes of an example's, as pnnx reads them, and of another one where the length
    grows."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = Converted(folder / "pnnx.param", folder / "ncnn.param", folder / "ncnn.bin")
    route = (
        f"customop={pnnx.customop}"
        if pnnx.customop
        else "moduleop=" + ",".join(f"{NAMESPACE}.{c.layer}" for c in COLLECTIVES)
    )
    command = [
        pnnx.program,
        str(script),
        *(f"inputshape{number}={shapes}" for number, shapes in zip(("", "2"), inputs, strict=False)),
        route,
        "fp16=0",
        f"pnnxparam={outputs.pnnx_param}",
        f"pnnxbin={folder / 'pnnx.bin'}",
        f"pnnxpy={folder / 'pnnx.py'}",
        f"pnnxonnx={folder / 'pnnx.onnx'}",
        f"ncnnparam={outputs.ncnn_param}",
        f"ncnnbin={outputs.ncnn_bin}",
        f"ncnnpy={folder / 'ncnn.py'}",
    ]
    log = folder / "pnnx.log"
    done = leash.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment())
    log.write_bytes(done.stdout)
    if done.returncode != 0 or not outputs.ncnn_param.is_file():
        kept = shutil.copy(log, script.with_name("pnnx.log"))
        raise ConvertError(
            f"pnnx ended with {done.returncode} on {script.name}: {_cause(pnnx, done.stdout.decode(errors='replace'))};"
            f" the whole log is {kept}"
        )
    for by_product in ("pnnx.bin", "pnnx.py", "pnnx.onnx", "ncnn.py"):
        (folder / by_product).unlink(missing_ok=True)
    return outputs


def _cause(pnnx: Pnnx, printed: str) -> str:
    for said, meaning in CAUSES.items():
        if found := re.search(said, printed):
            return meaning.format(library=pnnx.customop or "none", **found.groupdict())
    return " | ".join(printed.strip().splitlines()[-3:]) or "it printed nothing"


def shapes_of(example: Example) -> str:
    return ",".join(map(shape_text, example.shapes().values()))


def shape_text(shape: Sequence[int], kind: str = "") -> str:
    """`kind`: f32 or i64; float32 without one."""
    return str(list(shape)).replace(" ", "") + kind


def _environment() -> dict[str, str]:
    """Without mpirun's variables: pnnx starts in a world of its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_"))}
