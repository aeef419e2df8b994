"""Runs pnnx on one TorchScript file.

In: NAME-R.pt. Out: pnnx.param, ncnn.param and ncnn.bin in a folder, and a log.

Invariant: a run that fails is an error with pnnx's last lines and the path of the whole log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mpsplit import leash
from mpsplit.errors import ConvertError
from mpsplit.export.trace.trace_inputs import Example
from mpsplit.package.collectives import COLLECTIVES, NAMESPACE


@dataclass(frozen=True)
class Pnnx:
    """The program, and the operator library for the customop route ("" for the moduleop route)."""

    program: str
    customop: str = ""

    @property
    def form(self) -> str:
        """The form of TorchScript that this route reads (torchscript.FORMS)."""
        return "operator" if self.customop else "module"


def find_pnnx(program: str | None = None, customop: str | None = None) -> Pnnx:
    beside = Path(sys.executable).with_name("pnnx")
    path = shutil.which(program) if program else str(beside) if beside.exists() else shutil.which("pnnx")
    if not path:
        raise ConvertError(
            f"pnnx was not found{f' at {program}' if program else ''}; install it with `pip install pnnx` or give"
            " --pnnx PATH"
        )
    if customop and not Path(customop).is_file():
        raise ConvertError(f"--customop {customop}: there is no such library")
    return Pnnx(path, str(Path(customop).resolve()) if customop else "")


@dataclass(frozen=True)
class Converted:
    pnnx_param: Path
    ncnn_param: Path
    ncnn_bin: Path


def run_pnnx(pnnx: Pnnx, script: Path, examples: list[Example], folder: Path) -> Converted:
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
        f"inputshape={_shapes(examples[0])}",
        f"inputshape2={_shapes(examples[1])}",
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
        last = " | ".join(done.stdout.decode(errors="replace").strip().splitlines()[-3:])
        raise ConvertError(
            f"pnnx ended with {done.returncode} on {script.name}: {last or 'it printed nothing'}; the whole log is"
            f" {kept}"
        )
    for by_product in ("pnnx.bin", "pnnx.py", "pnnx.onnx", "ncnn.py"):
        (folder / by_product).unlink(missing_ok=True)
    return outputs


def _shapes(example: Example) -> str:
    return ",".join(str(list(shape)).replace(" ", "") for shape in example.shapes().values())


def _environment() -> dict[str, str]:
    """Without mpirun's variables: pnnx starts in a world of its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_"))}
