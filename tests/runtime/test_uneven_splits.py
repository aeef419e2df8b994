"""Splits that do not divide, against transformers: any number of ranks, shares of any size, stages
of any width and depth.

The suite runs on 1, 2 and 4 ranks, so each case starts an mpirun of its own, whose ranks are
uneven_split_ranks.py.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.mpirun import OPEN_MPI, find_mpirun
from mpsplit.native import cpp
from mpsplit.package.manifest import Manifest
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Share, even_plan, lay_out
from tests.cases import thorough
from tests.missing import needs
from tests.models import make_model, transformers_answer
from tests.running import CLEAN, MPSPLIT

ENGINES = ("native", "stock") if cpp.load("_engine") else ("stock",)
REFERENCE = "reference.npz"
ROOT = Path(__file__).parents[2]
PROMPT = tuple(np.random.default_rng(1).integers(0, 131, 23).tolist())
# family and what is not as in models.SIZES: 8 heads, 4 KV heads, 96 MLP columns, a vocabulary of
# 131
MODELS = {
    "shallow": ("llama-bias", dict(num_hidden_layers=2)),
    "deep": ("llama", dict(num_hidden_layers=6)),
    "few KV heads": ("qwen3", dict(num_hidden_layers=2, num_key_value_heads=2)),
}
FIRST, MIDDLE, LAST = Share(8, 96, embed=131), Share(8, 96), Share(8, 96, head=131)
CASES = {  # model, and either a number of ranks or the layers and shares of each stage
    "3 ranks, 4 KV heads": ("shallow", 3),
    "4 ranks, 2 KV heads": ("few KV heads", 4),
    "5 ranks, 4 KV heads": ("shallow", 5),
    "3, 2 and 1 layers": ("deep", [(3, [FIRST]), (2, [MIDDLE]), (1, [LAST])]),
    "70 to 30 between an embedding and a head": (
        "shallow",
        [(0, [Share(0, 0, embed=131)]), (2, [Share(6, 67), Share(2, 29)]), (0, [Share(0, 0, head=131)])],
    ),
    "attention here, MLP there, then a stage of one": (
        "shallow",
        [(1, [Share(8, 0, embed=131), Share(0, 96)]), (1, [LAST])],
    ),
}
MORE = (
    "70 to 30 between an embedding and a head",
    "4 ranks, 2 KV heads",
    "5 ranks, 4 KV heads",
    "3, 2 and 1 layers",
)
SOME = [*(case for case in CASES if case not in MORE), *thorough(*MORE)]

pytestmark = pytest.mark.seconds(300)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """name -> the directory of the model; reference.npz in it is what transformers makes of the
    prompt."""

    @functools.cache
    def make(name: str) -> Path:
        family, changes = MODELS[name]
        folder = make_model(family, tmp_path_factory.mktemp(family), changes=changes)
        logits, tokens = transformers_answer(folder, PROMPT, 32)
        np.savez(folder / REFERENCE, prompt=PROMPT, logits=logits, tokens=tokens)
        return folder

    return make


@pytest.fixture(scope="module")
def package_of(model_of, tmp_path_factory):
    """case -> its package, all ranks made in this process."""

    @functools.cache
    def make(case: str) -> Path:
        name, split = CASES[case]
        folder, out = model_of(name), tmp_path_factory.mktemp("uneven") / "package"
        facts = ModelFacts.from_config(read_config(folder))
        plan = even_plan(facts, split, 1) if isinstance(split, int) else lay_out(facts, split)
        partition(folder, plan, out, Alone())
        convert(out, Alone(), find_pnnx())
        return out

    return make


@pytest.mark.parametrize("case", SOME)
def test_logits_and_greedy_tokens_are_transformers(model_of, package_of, case):
    package, reference = package_of(case), model_of(CASES[case][0]) / REFERENCE
    program = [sys.executable, "-m", "tests.runtime.uneven_split_ranks", package, reference, *ENGINES]
    done = subprocess.run(
        [find_mpirun(), "-np", str(Manifest.load(package).plan.ranks), *program],
        capture_output=True,
        text=True,
        env=CLEAN | OPEN_MPI | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert set(results) == set(ENGINES)
    for apart, same_tokens in results.values():
        assert apart < 1e-4 and same_tokens, results


def test_verify_on_three_ranks(model_of, package_of):
    package = package_of("3 ranks, 4 KV heads")
    command = [*MPSPLIT, "verify", package, model_of("shallow"), "--json"]
    agreement = json.loads(subprocess.run(command, capture_output=True, env=CLEAN, timeout=250, check=True).stdout)
    assert agreement["same"] and agreement["max_abs"] < 1e-4


@needs("the engine")
@pytest.mark.parametrize("case", SOME)
def test_the_dump_is_transformers(model_of, package_of, case, tmp_path):
    """Whoever has the heads, and whether the first rank of a stage has any: transformers' names,
    each once."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = ",".join(map(str, PROMPT))
    command = [
        *MPSPLIT,
        "run",
        package_of(case),
        "--prompt-ids",
        ids,
        "--max-new-tokens",
        "1",
        "--dump",
        tmp_path / "in",
    ]
    subprocess.run(command, capture_output=True, env=CLEAN, timeout=100, check=True)
    model = AutoModelForCausalLM.from_pretrained(model_of(CASES[case][0]), dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model(torch.tensor([PROMPT]), output_hidden_states=True, use_cache=True)
    expected = {f"hidden_states.{i}": hidden.numpy() for i, hidden in enumerate(out.hidden_states)}
    for i, layer in enumerate(out.past_key_values.layers):
        expected |= {f"present_key.{i}": layer.keys.numpy(), f"present_value.{i}": layer.values.numpy()}
    files = [dict(np.load(file)) for file in (tmp_path / "in").iterdir()]
    assert sorted(name for file in files for name in file if "." in name) == sorted(expected)
    for name, array in ((name, array) for file in files for name, array in file.items() if "." in name):
        assert array.shape == expected[name].shape and np.abs(array - expected[name]).max() < 1e-4, name
