"""A real model of texts' embeddings in stages: against transformers' own vectors."""

import json

import numpy as np
import pytest

from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.stages.compilers.ncnn_compiler import NcnnCompiler
from mpsplit.export.stages.convert_stages import convert_stages
from mpsplit.export.stages.partition_stages import partition_stages
from mpsplit.export.stages.stage_cuts import cut_model
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.stages.placing import even_ends
from mpsplit.runtime.pipeline.load_pipeline import load_pipeline
from mpsplit.runtime.pipeline.pooling import embedding
from mpsplit.runtime.pipeline.text_input import TextInput
from mpsplit.runtime.pipeline.trial import Trials
from tests.missing import minilm, needs
from tests.running import mpsplit, refused

pytestmark = needs("MiniLM")

LEAST = {"f32": 0.99999, "q8": 0.999}  # cosines
TEXTS = (
    "a",
    "A cat sits on the mat.",
    "How do I reset the password of my account?",
    "Die Züge fahren heute nicht, wegen Sturm.",
    "def f(x): return x ** 2  # squares",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 14,
)


def transformers_vectors() -> np.ndarray:
    """Mean of the last states, of length 1, as the model's card does it; a text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    vectors = []
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt", truncation=False, padding=False)).last_hidden_state
        vectors.append(torch.nn.functional.normalize(states[0].mean(0), dim=0).numpy())
    return np.stack(vectors)


@pytest.mark.mpi
@pytest.mark.seconds(300)
def test_vectors_are_those_of_transformers(world, shared_folder):
    package, cut = shared_folder / "minilm", cut_model(minilm, "7")
    partition_stages(cut, even_ends(cut.costs, world.size), package, world)
    wanted = transformers_vectors() if world.rank == 0 else None
    for kind, least in LEAST.items():
        with Trials() as trials:
            convert_stages(package, world, NcnnCompiler(find_pnnx(), Recipe.parse(kind, 32)), trials)
        run = load_pipeline(package, world)
        if world.rank:
            run.follow()
            continue
        read = TextInput(package, run.pipeline)
        assert run.pipeline.sentences.longest == read.longest == 256
        outputs = list(run.lead(read(text) for text in TEXTS))
        run.end()
        found = np.stack([embedding(each["last_hidden_state"][0], run.pipeline.sentences) for each in outputs])
        cosines = (found * wanted).sum(1)
        assert cosines.min() >= least, f"{kind} on {world.size} ranks: {cosines}"


@pytest.mark.seconds(400)
def test_three_ranks_from_the_command_line(tmp_path):
    package, wanted = tmp_path / "minilm", transformers_vectors()
    mpsplit(
        "partition", minilm, "--stages", "encoder.layer.2,encoder.layer.4", "--ranks", 3, "--serial", "--out", package
    )
    for kind, least in LEAST.items():
        mpsplit("convert", package, "--serial", "--quant", kind)
        found = json.loads(mpsplit("run", package, "--json", "--text", *TEXTS))
        vectors = np.array([each["embedding"] for each in found])
        assert (vectors * wanted).sum(1).min() >= least
        np.testing.assert_allclose([each["cosines"] for each in found], vectors @ vectors.T, atol=1e-5)
    too_long = refused("run", package, "--text", "word " * 255)
    assert "the text has 257 tokens, the model takes 1 to 256" in too_long
