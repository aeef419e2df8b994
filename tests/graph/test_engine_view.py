"""A package's graphs, read: every layer is a step, equal layers are one, and the shapes are those
that the package says."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mpsplit.errors import PackageError
from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.graph_parser import parse_graph
from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.operator_table import PICK
from mpsplit.graph.shown.arena import engine_arena, plan_arena
from mpsplit.graph.shown.engine_view import engine_graph, package_graph
from mpsplit.graph.typed_graph import Repeat
from mpsplit.package.checked.layer_shapes import RankSizes
from mpsplit.package.manifest import FUSED, GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.plan.price.sizes import arena_bytes
from tests.graphs import without_names
from tests.models import FAMILIES
from tests.running import mpsplit, refused

OLD = Path(__file__).parents[1] / "fixtures" / "package-0.1"  # tiny-vicuna on two ranks, 6 and 2 heads
NO_STEPS = ("Input", "MemoryData", "Split")


def view(package, rank, name):
    manifest = Manifest.load(package)
    param = Param.load(rank_folder(package, rank) / name)
    return param, engine_graph(param, RankSizes.of(manifest, rank, name == FUSED), "a rank")


def check(param, flat):
    layers = [layer for layer in param.layers if layer.type not in NO_STEPS]
    assert len(layers) == len([step for step in flat.body.steps if step.operator != PICK])
    graph = folded(flat)
    assert parse_graph(graph_text(graph)) == graph
    assert without_names(graph) == without_names(flat)
    return graph


@pytest.mark.parametrize("name", [FUSED, GRAPH])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_package_of_the_first_version(name, rank):
    graph = check(*view(OLD, rank, name))
    (repeat,) = (step for step in graph.body.steps if isinstance(step, Repeat))
    assert repeat.turns == range(5)
    assert [output.name for output in graph.body.outputs[:2]] == ["hidden_out", "logits"]
    heads = ["model.layers.{layer}.self_attn." + name for name in ("q_proj.weight", "k_proj.weight")]
    assert set(heads) <= {given.source for given in repeat.body.weights} or name == FUSED


def test_what_fused_matrices_are_called_stands_in_the_other_graph():
    graph = package_graph(OLD, Manifest.load(OLD), 0)
    (repeat,) = (step for step in graph.body.steps if isinstance(step, Repeat))
    types = {given.source: str(given.type) for given in repeat.body.weights}
    assert types["model.layers.{layer}.self_attn.v_proj.weight"] == "i4x32[48, 128] panels"
    assert types["model.layers.{layer}.mlp.gate_proj.weight"] == "i4x32[288, 128] panels"
    assert not [source for source in types if "product" in source]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("rows, past", [(1, 0), (1, 511), (128, 0), (200, 300)])
def test_the_arena_is_at_most_a_twentieth_longer_than_any_must_be(rank, rows, past):
    arena = plan_arena(package_graph(OLD, Manifest.load(OLD), rank), {"rows": rows, "answers": 1, "past": past})
    assert arena.bound <= arena.bytes <= 1.05 * arena.bound


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(package_of, family):
    package = package_of(family, 2, 1)
    for name in (FUSED, GRAPH):
        graph = check(*view(package, 1, name))
        assert [step.turns for step in graph.body.steps if isinstance(step, Repeat)] == [range(3)]


def test_a_graph_that_does_not_fit_its_manifest_is_refused(tmp_path):
    package = shutil.copytree(OLD, tmp_path / "package")
    path = package / "rank-0" / FUSED
    path.write_text(path.read_text().replace("0=6 1=3 2=16", "0=7 1=3 2=16", 1))
    with pytest.raises(PackageError, match="0=7 heads, the plan says 6"):
        package_graph(package, Manifest.load(package), 0)
    path.unlink()
    with pytest.raises(PackageError, match="there is no fused.param in"):
        package_graph(package, Manifest.load(package), 0)


def test_inspect_prints_it(tmp_path):
    said = mpsplit("inspect", OLD, "--graph", "--rank", 1, "--context", 100, "--svg", tmp_path / "rank.svg")
    graph = parse_graph(said)
    assert graph.title == "tiny-vicuna: rank 1 of 2, layers 0..5"
    assert "# memory of a step of 100 rows: " in said
    labels = [element.text for element in ElementTree.parse(tmp_path / "rank.svg").iter() if element.text]
    assert "layer 0 .. 4: each like this, x 5" in labels
    told = json.loads(mpsplit("inspect", OLD, "--graph", "--json"))
    assert parse_graph(told["graph"]).title.startswith("tiny-vicuna: rank 0")
    assert [arena["rows"] for arena in told["arenas"]] == [1, 128]
    assert "--rank 2 is out of range" in refused("inspect", OLD, "--graph", "--rank", 2)


def test_of_an_encrypted_package(tmp_path):
    key, sealed = tmp_path / "key", tmp_path / "sealed"
    key.write_bytes(bytes(range(32)))
    mpsplit("encrypt", OLD, "--out", sealed, "--key-file", key)
    said = mpsplit("inspect", sealed, "--graph", "--rank", 1, "--key-file", key)
    assert said == mpsplit("inspect", OLD, "--graph", "--rank", 1)
    assert "no key was given" in refused("inspect", sealed, "--graph")


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_plan_counts_for_the_arena(rank):
    manifest = Manifest.load(OLD)
    graph = package_graph(OLD, manifest, rank)
    for rows in (1, 128):
        counted = arena_bytes(manifest.facts, manifest.plan.shards[rank], rows)
        assert counted == pytest.approx(engine_arena(graph, rows).bytes, rel=0.02)
