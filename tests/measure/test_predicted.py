"""Peak memory of a model of a gigabyte over two ranks: under what was predicted, and near it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from mpsplit.mpirun import OPEN_MPI, find_mpirun
from tests.missing import need
from tests.running import CLEAN

ROOT = Path(__file__).parents[2]
WIDE = dict(
    hidden_size=2048, intermediate_size=8192, num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=8,
    vocab_size=8192, max_position_embeddings=512, tie_word_embeddings=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """536 million weights in bfloat16, 1.07 GB; in 8 bits over two ranks."""
    from mpsplit.comm import Alone
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.export.model.model_source import read_config
    from mpsplit.export.partition import partition
    from mpsplit.package.stored.recipe import Recipe
    from mpsplit.plan.model_facts import ModelFacts
    from mpsplit.plan.shards import even_plan

    model, out = tmp_path_factory.mktemp("wide"), tmp_path_factory.mktemp("package") / "wide"
    make_model(model)
    facts = ModelFacts.from_config(read_config(model))
    partition(model, even_plan(facts, 2, 1), out, Alone())
    convert(out, Alone(), find_pnnx(), Recipe.parse("q8", 32))
    return out


def make_model(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from mpsplit.export.model.model_source import read_config
    from mpsplit.export.trace.slicing import build_whole, expected_weights
    from mpsplit.plan.model_facts import ModelFacts

    config = LlamaConfig(**WIDE, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)) * 0.02
    shapes = expected_weights(build_whole(folder), ModelFacts.from_config(read_config(folder)))
    tensors = {name: repeated(noise, shape) for name, shape in shapes.items()}
    assert sum(tensor.nbytes for tensor in tensors.values()) > 1e9
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def repeated(noise, shape):
    """The same numbers again and again: what they are does not matter here. Norms are near 1."""
    size = math.prod(shape)
    values = noise.repeat(-(-size // noise.numel()))[:size].reshape(shape)
    return (values + (len(shape) == 1)).bfloat16()


@pytest.mark.seconds(400)
def test_peak_memory_stays_under_what_was_predicted(package, tmp_path):
    need("the engine")
    program = [sys.executable, "-m", "tests.measure.predicted_ranks", package, tmp_path / "cluster.json"]
    for _ in ("probe", "run"):
        done = subprocess.run(
            [find_mpirun(), "-np", "2", *program], capture_output=True, text=True, timeout=120, check=False,
            env=CLEAN | OPEN_MPI | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    print(f"\n{peaks}")
    for measured, predicted in zip(peaks["measured"], peaks["predicted"], strict=True):
        assert 0.9 * predicted < measured <= predicted
