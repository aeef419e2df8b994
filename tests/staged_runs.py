"""Stages that are run on random inputs, beside what eager torch says of the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mpsplit.export.stages.model_builder import original
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import FLOAT, Pipeline
from mpsplit.runtime.pipeline.load_pipeline import load_pipeline

Arrays = dict[str, np.ndarray]


def inputs_of(pipeline: Pipeline, lengths: Sequence[int]) -> list[Arrays]:
    """One of each length, or three where none has a length."""
    chance = np.random.default_rng(1)
    found: list[Arrays] = []
    for length in lengths if pipeline.grows else (1, 1, 1):
        found.append({})
        for name in pipeline.inputs:
            value = pipeline.values[name]
            shape = numbers(value.shape, length)
            least, most = (0, 2) if name == "token_type_ids" else (3, 50)  # below are padding and its like
            found[-1][name] = (
                chance.standard_normal(shape, np.float32)
                if value.type == FLOAT
                else chance.integers(least, most, shape)
            )
    return found


def eager(module, given: Arrays) -> Arrays:
    import torch

    with torch.no_grad():
        wanted = module(**{name: torch.from_numpy(array) for name, array in given.items()})
    return {name: tensor.numpy() for name, tensor in wanted.items() if isinstance(tensor, torch.Tensor)}


def beside_eager(package: Path, model: Path, world, lengths: Sequence[int]) -> Iterator[tuple[Arrays, Arrays]]:
    """(found, wanted) of each input on rank 0; the others follow, and there is nothing on them."""
    run = load_pipeline(package, world)
    if world.rank:
        run.follow()
        return
    inputs, module = inputs_of(run.pipeline, lengths), original(model)
    outputs = list(run.lead(inputs))
    run.end()
    for given, found in zip(inputs, outputs, strict=True):
        yield found, eager(module, given)
