"""The net of a stage, by what made its files.

In: a stage of a pipeline, its folder. Out: a StageNet; refuses a compiler that is not installed,
and a processor that the code is not for.

Each net's module is imported where one of its kind is wanted: a rank needs what it runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.package.stages.built import IREE, NCNN
from mpsplit.package.stages.pipeline import Pipeline, Stage
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.runtime.pipeline.nets.stage_net import StageNet

Load = Callable[[Pipeline, Stage, Path, StageFiles, int], StageNet]


def _ncnn() -> Load:
    from mpsplit.runtime.pipeline.nets.ncnn_net import NcnnNet

    return NcnnNet


def _iree() -> Load:
    try:
        from mpsplit.runtime.pipeline.nets.iree_net import IreeNet
    except ImportError as wrong:
        raise RunError(
            f"IREE compiled the stages of this package, and its runtime is not here ({wrong}); pip install"
            " 'mpsplit[iree]'"
        ) from None
    return IreeNet


NETS: dict[str, Callable[[], Load]] = {NCNN: _ncnn, IREE: _iree}


def load_net(pipeline: Pipeline, stage: Stage, folder: Path, files: StageFiles, threads: int) -> StageNet:
    stage.built.check(f"stage {stage.name}")
    return NETS[stage.built.compiler]()(pipeline, stage, folder, files, threads)
