"""What a compilation leaves to read: a text for each graph, and the arrays that the model has.

In: options, graphs, the inputs of dynamo's graph. Out: files in a folder.

Invariant: the same model gives the same bytes. With debug "const_name" their names are the same
whatever the model computes; else a hash of what it computes is in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from mpsplit.package.whole_files import beside, write_arrays
from mpsplit.train.fx_text import fx_text
from mpsplit.train.train_options import CONST_NAME, TrainError, TrainOptions


@dataclass(frozen=True)
class Artefacts:
    """Of one graph of dynamo. `end`: of the files' names. `arrays`: of its inputs those that are
    the model's parameters and buffers, else None."""

    folder: Path
    end: str
    arrays: tuple[np.ndarray | None, ...]

    def path(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}{self.end}{ending}"

    def write(self, direction: str, graph: GraphModule) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with beside(self.path(direction, ".txt")) as partial:
                partial.write_text(fx_text(graph), encoding="utf-8")
            if direction != "backward":
                self._write_weights(graph)
        except OSError as wrong:
            raise TrainError(
                f"option 'artefacts' {str(self.folder)!r} cannot be written ({wrong.strerror}); name another folder"
            ) from None

    def _write_weights(self, graph: GraphModule) -> None:
        """By the names of the graph's inputs."""
        names = [node.name for node in graph.graph.find_nodes(op="placeholder")]
        arrays = {name: array for name, array in zip(names, self.arrays, strict=True) if array is not None}
        write_arrays(self.path("weights", ".npz"), arrays)


def artefacts_of(options: TrainOptions, graph: GraphModule, inputs: Sequence[Any]) -> Artefacts | None:
    if not options.artefacts:
        return None
    folder = Path(options.artefacts)
    arrays = tuple(_numpy(value) if _is_models(value) else None for value in inputs)
    computed = hashlib.sha256(fx_text(graph).encode()).hexdigest()[:12]
    if options.debug != CONST_NAME:
        return Artefacts(folder, f"-{computed}", arrays)
    before = _seen.setdefault(folder.resolve(), [])
    if computed not in before:
        before.append(computed)
    number = before.index(computed) + 1
    return Artefacts(folder, f"-{number}" if number > 1 else "", arrays)


_seen: dict[Path, list[str]] = {}  # folder -> hashes of dynamo's graphs, in the order of the model


def _is_models(value: Any) -> bool:
    """Dynamo marks what a module keeps, buffers too."""
    return getattr(value, "_dynamo_static_input_type", None) is not None


def _numpy(value: torch.Tensor) -> np.ndarray:
    """numpy has no bfloat16: it is widened."""
    plain = value.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
