"""A pipeline of stages against the model it was made of.

In: a run, the model. Out: how far each output is off, over several inputs, and how far it may be.

The original is transformers' own, in float32, without any of our code between. Beside it runs the
same with its linears rounded in the plainest way, as check/rounded_model.py does it: what a sound
package may lose is measured on the model at hand. Invariant: MARGIN and EXACT are all that was
chosen; in float32 there is rounding of sums alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpsplit.check.rounded_model import rounded_linears
from mpsplit.errors import ModelError
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.stages.checkpoint_names import tensors_of
from mpsplit.export.stages.model_builder import original
from mpsplit.package.stages import pipeline as values
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.stored.quantisation import FLOAT, Quantisation, coarseness
from mpsplit.package.stored.recipe import Recipe
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun

EXACT = 1e-3  # of an output, as root mean squares: sums in another order
MARGIN = 3.0  # times what plain rounding does: of 3 and 2 bits packages were up to 2.1 times so far off
WORTHLESS = 0.7  # of an output: zeros are 1 off, another model is 1.4
TINY = 1e-30
VOCABULARY = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}  # fields of config.json
LENGTHS = (5, 11, 64)
FIXED = 16  # inputs, where none has a length


@dataclass
class Distance:
    """From the original, over all inputs. `apart`: the largest difference of a number; `cosine`: of
    a whole output, the smallest; `squares`: the sum of the squares of all differences."""

    apart: float = 0.0
    cosine: float = 1.0
    squares: float = 0.0

    def add(self, found: np.ndarray, wanted: np.ndarray) -> None:
        apart = np.abs(found - wanted) if found.shape == wanted.shape else np.array([np.inf])
        self.apart = max(self.apart, float(np.nan_to_num(apart, nan=np.inf).max()))
        self.cosine = min(self.cosine, _cosine(found, wanted))
        self.squares += float(np.square(apart, dtype=np.float64).sum())


@dataclass
class OutputAgreement:
    """One output of the package, and of plain rounding. Of the original's `largest`: its largest
    number; `squares`: the sum of its squares. `tolerance`: how far apart a number may be, where the
    user says so."""

    tolerance: float | None
    found: Distance = field(default_factory=Distance)
    rounded: Distance = field(default_factory=Distance)
    largest: float = 0.0
    squares: float = 0.0

    def add(self, found: np.ndarray, rounded: np.ndarray, wanted: np.ndarray) -> None:
        self.found.add(found, wanted)
        self.rounded.add(rounded, wanted)
        self.largest = max(self.largest, float(np.abs(wanted).max()))
        self.squares += float(np.square(wanted, dtype=np.float64).sum())

    def off(self, distance: Distance) -> float:
        """Differences as a share of what the numbers are, both as root mean squares."""
        return math.sqrt(distance.squares / max(self.squares, TINY))

    @property
    def limit(self) -> float:
        return min(MARGIN * self.off(self.rounded) + EXACT, WORTHLESS)

    @property
    def failed(self) -> bool:
        if self.tolerance is not None:
            return not self.found.apart <= self.tolerance
        return not self.off(self.found) <= self.limit

    def __str__(self) -> str:
        off, plain = self.off(self.found), self.off(self.rounded)
        return (
            f"at most {self.found.apart:.2e} apart (its largest number is {self.largest:.3g}), cosine"
            f" {self.found.cosine:.7f}, {off:.2g} of it off where plain rounding is {plain:.2g}"
            + f" and {self.limit:.2g} may be"
            * self.failed
        )

    def to_json(self) -> dict[str, float]:
        return {
            "apart": self.found.apart,
            "largest": self.largest,
            "cosine": self.found.cosine,
            "off": self.off(self.found),
            "rounded": self.off(self.rounded),
            "limit": self.limit,
        }


@dataclass(frozen=True)
class StagesAgreement:
    """`kind`: the coarsest of the weights."""

    outputs: dict[str, OutputAgreement]
    inputs: int
    kind: str

    @property
    def failed(self) -> bool:
        return any(output.failed for output in self.outputs.values())

    def __str__(self) -> str:
        sound = "the same" if self.kind == FLOAT.kind else f"within the limits of {self.kind}"
        outputs = "; ".join(f"{name} {output}" for name, output in self.outputs.items())
        return f"{'different' if self.failed else sound} over {self.inputs} inputs: {outputs}"

    def to_json(self) -> dict[str, Any]:
        outputs = {name: output.to_json() for name, output in self.outputs.items()}
        return {"same": not self.failed, "inputs": self.inputs, "kind": self.kind} | outputs


def compare(run: PipelineRun, package: Path, model: Path, tolerance: float | None) -> StagesAgreement:
    """On rank 0; the others follow."""
    manifest = StageManifest.load(package)
    module = original(model)
    if type(module).__name__ != manifest.architecture:
        raise ModelError(
            f"{package} was made of a {manifest.architecture}, {model} is a {type(module).__name__}; name its own model"
        )
    recipe = Recipe.of_text(manifest.tools["recipe"])
    names = tensors_of(module, checkpoint_of(model).entries) if recipe.rules else {}
    rounded = rounded_linears(module, partial(_kind_of, recipe, names))
    inputs = list(_inputs(run.pipeline, module))
    outputs = {name: OutputAgreement(tolerance) for name in run.pipeline.outputs}
    for given, found in zip(inputs, run.lead(inputs), strict=True):
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        with torch.no_grad():
            wanted, plainly = module(**tensors), rounded(**tensors)
        for name, array in found.items():
            outputs[name].add(array, _output(plainly, name), _output(wanted, name))
    kinds = {how.kind for how in (recipe.default, *(rule.how for rule in recipe.rules))}
    return StagesAgreement(outputs, len(inputs), max(kinds, key=coarseness))


def _kind_of(recipe: Recipe, names: Mapping[str, str], weight: str, inputs: int) -> Quantisation | None:
    how = recipe.kind_of(names.get(weight, weight))
    return how if how.fits(inputs) else None


def _inputs(pipeline: Pipeline, module: torch.nn.Module) -> Iterator[dict[str, np.ndarray]]:
    chance = np.random.default_rng(0)
    for length in [n for n in LENGTHS if n <= pipeline.longest] or [0] * FIXED:
        yield {name: _array(name, pipeline, length, chance, module) for name in pipeline.inputs}


def _array(
    name: str, pipeline: Pipeline, length: int, chance: np.random.Generator, module: torch.nn.Module
) -> np.ndarray:
    value = pipeline.values[name]
    shape = numbers(value.shape, length)
    if value.type == values.FLOAT:
        return chance.standard_normal(shape, np.float32)
    config = getattr(module, "config", None)
    drawn = chance.integers(0, getattr(config, VOCABULARY.get(name, ""), 2), shape)
    padding = getattr(config, "pad_token_id", None)
    if name == "input_ids" and padding is not None:  # inputs of stages have none
        drawn[drawn == padding] = padding + 1 if padding == 0 else padding - 1
    return drawn


def _output(given: Any, name: str) -> np.ndarray:
    return (given if isinstance(given, torch.Tensor) else given[name]).numpy()


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length and x.shape == y.shape else 0.0
