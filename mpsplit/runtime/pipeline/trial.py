"""A stage's files tried out, in a process that may end badly.

In: a stage, its files, arrays. Out: what it gives, or None where it cannot run so.

ncnn believes what it is given: an array of another shape than a layer expects can end the process.
Invariant: this process goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mpsplit.errors import MpsplitError
from mpsplit.leash import end_with_parent
from mpsplit.package.stages.pipeline import Pipeline, Stage
from mpsplit.package.stages.stage_files import StageFiles


class Trials:
    """One process for all trials, another after one that ended badly."""

    def __init__(self) -> None:
        self.another: ProcessPoolExecutor | None = None

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_) -> None:
        if self.another:
            self.another.shutdown()

    def __call__(
        self,
        pipeline: Pipeline,
        stage: Stage,
        folder: Path,
        files: StageFiles,
        given: Mapping[str, np.ndarray],
        length: int,
    ) -> dict[str, np.ndarray] | None:
        if self.another is None:
            self.another = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
        try:
            return self.another.submit(_run, pipeline, stage, folder, files, dict(given), length).result()
        except BrokenProcessPool:
            self.another = None
            return None


def _run(
    pipeline: Pipeline, stage: Stage, folder: Path, files: StageFiles, given: dict[str, np.ndarray], length: int
) -> dict[str, np.ndarray] | None:
    from mpsplit.runtime.pipeline.nets.load_net import load_net

    try:
        net = load_net(pipeline, stage, folder, files, 1)
        return net.run(given, length)
    except (MpsplitError, ValueError):  # a compiler, or a layer of ours, is given another shape
        return None
