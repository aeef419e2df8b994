"""Models written by hand, split and run: examples/write_a_model.py on every number of ranks, its
decoder in 4 bits, and what is refused."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import GraphError, ModelError
from mpsplit.export.written_package import write_package
from mpsplit.graph.graph_parser import parse_graph
from mpsplit.graph.graph_text import graph_text
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.load import load_engine
from tests.missing import needs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "examples" / "write_a_model.py"))


@pytest.mark.mpi
def test_the_example_is_what_numpy_says(example, world, shared_folder):
    """On ranks of different widths too."""
    example["run"](shared_folder / "written", world)


def renamed(graph_of, old, new):
    return lambda shard: parse_graph(graph_text(graph_of(shard)).replace(old, new))


def whole(example):
    """The decoder, its weights and the plan of one rank."""
    model = example["made_up"]("decoder")
    return model, even_plan(model.facts, 1, 1)


@needs("the kernels")
def test_both_engines_run_what_is_stored_in_4_bits(example, tmp_path):
    model, plan = whole(example)
    manifest = write_package(model, plan, tmp_path / "q4", Alone(), Recipe.parse("q4", 32))
    assert "q4/32" in manifest.tools["recipe"]
    native, stock = (
        load_engine(tmp_path / "q4", Alone(), engine).step(example["TOKENS"], 0, True) for engine in ("native", "stock")
    )
    np.testing.assert_allclose(native, stock, atol=1e-4)
    exact = example["in_numpy"](model.weights, example["TOKENS"], model.facts.layers)
    assert 1e-3 < np.abs(native - exact).max() < 0.5 * np.abs(exact).max()
    with pytest.raises(ModelError, match="is a whole package of 1 ranks"):
        write_package(model, plan, tmp_path / "q4", Alone())


UP = "model.layers.1.mlp.up_proj.weight"
WRONG = {
    r"model.norm.weight is missing among the \d+ weights":
        lambda m: replace(m, weights={k: v for k, v in m.weights.items() if k != "model.norm.weight"}),
    rf"{UP} of rank 0 is \[96, 64\], and its array \[95, 64\], of which its plan takes 0..96 of 96 along 0":
        lambda m: replace(m, weights={**m.weights, UP: m.weights[UP][1:]}),
    r"model.embed_tokens.weight is \[101, 64\], and its array \[100, 64\]":
        lambda m: replace(m, facts=replace(m.facts, vocabulary=101)),
    "rank 0 owns nothing of model.layers.2.":
        lambda m: replace(m, graph_of=renamed(m.graph_of, "{layer}", "{layer+1}")),
    "model.layers.0.mlp.side_proj.weight is no weight of a LlamaForCausalLM":
        lambda m: replace(m, graph_of=renamed(m.graph_of, "up_proj", "side_proj")),
    "the graph of rank 0 is none that an engine runs: logits is missing, it must be 100 x answers":
        lambda m: replace(m, graph_of=renamed(m.graph_of, "as logits", "as guesses")),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_and_leaves_nothing(example, tmp_path, wrong):
    model = WRONG[wrong](whole(example)[0])
    with pytest.raises(GraphError, match=wrong):
        write_package(model, even_plan(model.facts, 1, 1), tmp_path / "none", Alone())
    assert not (tmp_path / "none").exists()
