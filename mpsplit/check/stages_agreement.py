"""A pipeline of stages against the model it was made of.

In: a run, the model. Out: how far each output is off, over several inputs.

The original is transformers' own, in float32, without any of our code between. Invariant: what may
be off follows from how weights are stored: in float32 rounding alone, else what --tolerance says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpsplit.errors import ModelError
from mpsplit.export.stages.model_builder import original
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import FLOAT, Pipeline
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun

EXACT, ROUNDED = 1e-3, 0.5  # of the largest number of an output
VOCABULARY = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}  # fields of config.json
LENGTHS = (5, 11, 64)


@dataclass(frozen=True)
class StagesAgreement:
    """`differences`: the largest of each output, absolute; `largest`: its largest number; `cosine`:
    of the whole output, the smallest over the inputs."""

    differences: dict[str, float]
    largest: dict[str, float]
    cosine: dict[str, float]
    inputs: int
    limit: float
    absolute: bool

    @property
    def failed(self) -> bool:
        return any(
            not difference <= (self.limit if self.absolute else self.limit * self.largest[name])
            for name, difference in self.differences.items()
        )

    def __str__(self) -> str:
        outputs = "; ".join(
            f"{name} at most {difference:.2e} apart (its largest number is {self.largest[name]:.3g}), cosine"
            f" {self.cosine[name]:.7f}"
            for name, difference in self.differences.items()
        )
        return f"{'different' if self.failed else 'the same'} over {self.inputs} inputs: {outputs}"

    def to_json(self) -> dict[str, Any]:
        return {"same": not self.failed, "inputs": self.inputs, "limit": self.limit} | {
            name: {"apart": self.differences[name], "largest": self.largest[name], "cosine": self.cosine[name]}
            for name in self.differences
        }


def compare(run: PipelineRun, package: Path, model: Path, tolerance: float | None) -> StagesAgreement:
    """On rank 0; the others follow."""
    manifest = StageManifest.load(package)
    module = original(model)
    if type(module).__name__ != manifest.architecture:
        raise ModelError(
            f"{package} was made of a {manifest.architecture}, {model} is a {type(module).__name__}; name its own model"
        )
    inputs = list(_inputs(run.pipeline, module))
    differences: dict[str, float] = dict.fromkeys(run.pipeline.outputs, 0.0)
    largest, cosine = dict(differences), dict.fromkeys(differences, 1.0)
    for given, found in zip(inputs, run.lead(inputs), strict=True):
        with torch.no_grad():
            wanted = module(**{name: torch.from_numpy(array) for name, array in given.items()})
        for name, array in found.items():
            expected = _output(wanted, name).numpy()
            apart = float(np.abs(array - expected).max()) if array.shape == expected.shape else float("inf")
            differences[name] = max(differences[name], apart)
            largest[name] = max(largest[name], float(np.abs(expected).max()))
            cosine[name] = min(cosine[name], _cosine(array, expected))
    exact = "f32" in manifest.tools.get("recipe", "")
    limit = tolerance if tolerance is not None else EXACT if exact else ROUNDED
    return StagesAgreement(differences, largest, cosine, len(inputs), limit, tolerance is not None)


def _inputs(pipeline: Pipeline, module: torch.nn.Module) -> Iterator[dict[str, np.ndarray]]:
    chance = np.random.default_rng(0)
    longest = pipeline.longest or max(LENGTHS)
    for length in [n for n in LENGTHS if n <= longest]:
        yield {name: _array(name, pipeline, length, chance, module) for name in pipeline.inputs}


def _array(
    name: str, pipeline: Pipeline, length: int, chance: np.random.Generator, module: torch.nn.Module
) -> np.ndarray:
    value = pipeline.values[name]
    shape = numbers(value.shape, length)
    if value.type == FLOAT:
        return chance.standard_normal(shape, np.float32)
    config = getattr(module, "config", None)
    drawn = chance.integers(0, getattr(config, VOCABULARY.get(name, ""), 2), shape)
    padding = getattr(config, "pad_token_id", None)
    if name == "input_ids" and padding is not None:  # inputs of stages have none
        drawn[drawn == padding] = padding + 1 if padding == 0 else padding - 1
    return drawn


def _output(wanted: Any, name: str) -> torch.Tensor:
    return wanted if isinstance(wanted, torch.Tensor) else wanted[name]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length and x.shape == y.shape else 0.0
