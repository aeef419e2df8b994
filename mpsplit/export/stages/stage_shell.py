"""What partition leaves of a stage, or of a shard, for convert: its program without weights, and
where they are.

In: a Capture, a stage or a shard. Out: .pt, .json and .fx.txt in a rank's folder.

Invariant: nothing of the model but its checkpoint is needed to go on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from torch import fx

from mpsplit.errors import PackageError
from mpsplit.export.stages.captured import Capture
from mpsplit.export.stages.made_values import TABLE
from mpsplit.export.stages.shard_program import ShardExtraction
from mpsplit.export.stages.stage_program import save_script, stage_module, weight_name
from mpsplit.export.trace.typed_text import typed_text
from mpsplit.package.stages.stage_files import shell_names, tables_name
from mpsplit.package.whole_files import read_json, write_json


@dataclass(frozen=True)
class Shell:
    """`weights`: attributes of the program, each with its tensor in the checkpoint. `entries`: of
    those that are cut, the axis and which entries, -1 for zeros. `lengths`: two to convert with,
    which differ; one where nothing grows."""

    weights: dict[str, str]
    lengths: tuple[int, ...]
    entries: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, stem: str) -> Shell:
        path = folder / shell_names(stem).facts
        data = read_json(path, "run `mpsplit partition` again")
        try:
            entries = {str(name): (int(axis), list(map(int, of))) for name, (axis, of) in data["entries"].items()}
            return cls(dict(data["weights"]), tuple(map(int, data["lengths"])), entries)
        except (AttributeError, KeyError, TypeError, ValueError) as wrong:
            raise PackageError(f"{path} is damaged ({wrong}); run `mpsplit partition` again") from None


@dataclass(frozen=True)
class Wanted:
    """What a stage's graph has: nodes, and what it takes, makes and gives."""

    nodes: Sequence[str]
    inputs: Sequence[str]
    made: Sequence[str]
    outputs: Sequence[str]
    weights: Sequence[str]


def save_stage(
    capture: Capture, wanted: Wanted, stem: str, lengths: tuple[int, ...], tensors: Mapping[str, str], folder: Path
) -> None:
    """`tensors`: of each weight, its name in the checkpoint."""
    module = stage_module(capture, wanted.nodes, (*wanted.inputs, *wanted.made), wanted.outputs)
    _save(module, Shell({weight_name(name): tensors[name] for name in wanted.weights}, lengths), stem, folder)
    tables = {name: capture.made[name].table for name in wanted.made if capture.made[name].kind == TABLE}
    if tables:
        np.savez(
            folder / tables_name(stem), **{name: table.numpy() for name, table in tables.items() if table is not None}
        )


def save_shard(
    shard: ShardExtraction, stem: str, lengths: tuple[int, ...], tensors: Mapping[str, str], folder: Path
) -> None:
    weights = {weight_name(name): tensors[name] for name in shard.weights}
    entries = {name: cut for name, cut in shard.entries.items() if name in weights}
    _save(shard.module(), Shell(weights, lengths, entries), stem, folder)


def _save(module: fx.GraphModule, shell: Shell, stem: str, folder: Path) -> None:
    names = shell_names(stem)
    (folder / names.text).write_text(typed_text(module), encoding="utf-8")
    save_script(module, shell.lengths[0], folder / names.script)
    write_json(folder / names.facts, asdict(shell))
