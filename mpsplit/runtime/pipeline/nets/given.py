"""The arrays that a stage's graph is called with: some come in, some are made of the length.

In: a stage, its tables, the arrays that come in. Out: an array by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpsplit.package.stages.made_arrays import made
from mpsplit.package.stages.pipeline import Stage
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.runtime.pipeline.nets.stage_net import Arrays


class Given:
    """`names`: in the order in which the graph takes them."""

    def __init__(self, own: Stage, folder: Path, files: StageFiles):
        self.made = {value.name: value for value in own.made}
        self.names = (*own.inputs, *self.made)
        self.tables = dict(np.load(folder / files.tables, allow_pickle=False)) if files.tables else {}

    def array(self, name: str, given: Arrays, length: int) -> np.ndarray:
        return given[name] if name in given else made(self.made[name], length, self.tables.get(name))
