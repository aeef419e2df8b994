"""The shipped ViT, which really reads digits, as the 26 stages of the design."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples.train_tiny_vit import digits, held_out
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.stages.compilers.ncnn_compiler import NcnnCompiler
from mpsplit.export.stages.convert_stages import convert_stages
from mpsplit.export.stages.model_builder import original
from mpsplit.export.stages.partition_stages import partition_stages
from mpsplit.export.stages.stage_cuts import cut_model
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.stages.placing import even_ends
from mpsplit.runtime.pipeline.image_input import prepared
from mpsplit.runtime.pipeline.load_pipeline import load_pipeline
from mpsplit.runtime.pipeline.trial import Trials
from tests.cases import thorough
from tests.running import mpsplit

MODEL = Path(__file__).parents[3] / "examples" / "tiny-vit"
RECIPES = {"f32": Recipe(), "q8": Recipe.parse("q8", 32)}
LEAST = 0.97  # of the held-out digits


def coloured(image: np.ndarray) -> np.ndarray:
    """As image files are read."""
    return np.repeat(image[..., None], 3, axis=-1)


def test_it_is_small():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 1e6


@pytest.mark.mpi
@pytest.mark.seconds(300)
@pytest.mark.parametrize("kind", ["f32", *thorough("q8", ranks=2)])
def test_over_26_stages_it_answers_as_well_as_the_original(world, shared_folder, kind):
    package, cut = shared_folder / f"tiny-vit-{kind}", cut_model(MODEL, "26")
    halves = [f"vit.layers.{layer}.{half}" for layer in range(12) for half in ("attention", "mlp")]
    assert [stage.name for stage in cut.stages] == ["vit.embeddings", *halves, "vit"]
    partition_stages(cut, even_ends(cut.costs, world.size), package, world)
    with Trials() as trials:
        convert_stages(package, world, NcnnCompiler(find_pnnx(), RECIPES[kind]), trials)
    run = load_pipeline(package, world)
    if world.rank:
        run.follow()
        return
    images, shown = digits()
    mine = held_out(len(shown))
    inputs = [{"pixel_values": prepared(coloured(image), run.pipeline.images)} for image in images[mine]]
    logits = np.concatenate([found["logits"] for found in run.lead(inputs)])
    run.end()
    wanted = eager(np.concatenate([given["pixel_values"] for given in inputs]))
    original_right = (wanted.argmax(-1) == shown[mine]).mean()
    right = (logits.argmax(-1) == shown[mine]).mean()
    assert original_right >= LEAST and abs(right - original_right) <= (0 if kind == "f32" else 0.01)
    if kind == "f32":
        assert np.abs(logits - wanted).max() < 1e-3 and (logits.argmax(-1) == wanted.argmax(-1)).all()


def eager(pixels: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return original(MODEL)(pixel_values=torch.from_numpy(pixels)).logits.numpy()


@pytest.mark.seconds(300)
def test_four_ranks_from_the_command_line(tmp_path):
    package, (images, shown) = tmp_path / "vit", digits()
    chosen = np.flatnonzero(held_out(len(shown)))[:6]
    paths = [tmp_path / f"{number}.pgm" for number in chosen]
    for path, number in zip(paths, chosen, strict=True):
        path.write_bytes(b"P5 8 8 255\n" + images[number].tobytes())
    mpsplit("partition", MODEL, "--stages", 26, "--ranks", 4, "--serial", "--out", package)
    mpsplit("convert", package, "--serial")
    found = json.loads(mpsplit("run", package, "--image", *paths, "--json"))
    assert [answer["labels"][0]["label"] for answer in found] == [str(shown[number]) for number in chosen]
