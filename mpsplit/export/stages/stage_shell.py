"""What partition leaves of a stage for convert: its program without weights, and where they are.

In: a Capture, a stage. Out: stage-NN.pt, stage-NN.json and stage-NN.fx.txt in a rank's folder.

Invariant: nothing of the model but its checkpoint is needed to go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.export.stages.captured import Capture
from mpsplit.export.stages.made_values import TABLE
from mpsplit.export.stages.stage_program import save_script, stage_module, weight_name
from mpsplit.package.stages.stage_files import StageFiles, shell_names
from mpsplit.package.whole_files import read_json, write_json
from mpsplit.plan.stages.closing import ClosedStage


@dataclass(frozen=True)
class Shell:
    """`weights`: attributes of the program, each with its tensor in the checkpoint. `lengths`: two
    to convert with, which differ; one where nothing grows."""

    weights: dict[str, str]
    lengths: tuple[int, ...]

    @classmethod
    def load(cls, folder: Path, number: int) -> Shell:
        path = folder / shell_names(number).facts
        data = read_json(path, "run `mpsplit partition` again")
        try:
            return cls(dict(data["weights"]), tuple(map(int, data["lengths"])))
        except (KeyError, TypeError, ValueError) as wrong:
            raise PackageError(f"{path} is damaged ({wrong}); run `mpsplit partition` again") from None


def save_shell(
    capture: Capture,
    stage: ClosedStage,
    number: int,
    lengths: tuple[int, ...],
    tensors: Mapping[str, str],
    folder: Path,
) -> None:
    """`tensors`: of each weight, its name in the checkpoint."""
    names = shell_names(number)
    module = stage_module(capture, stage.nodes, (*stage.inputs, *stage.made), stage.outputs)
    (folder / names.text).write_text(f"{module.graph}\n", encoding="utf-8")
    save_script(module, lengths[0], folder / names.script)
    shell = Shell({weight_name(name): tensors[name] for name in stage.weights}, lengths)
    write_json(folder / names.facts, asdict(shell))
    tables = {name: capture.made[name].table for name in stage.made if capture.made[name].kind == TABLE}
    if tables:
        path = StageFiles.named(number).tables
        assert path
        np.savez(folder / path, **{name: table.numpy() for name, table in tables.items() if table is not None})
