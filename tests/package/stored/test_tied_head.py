"""A tied head is stored once where ranks have the same rows of it as of the embedding, and nowhere
believed to be without being so."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import PackageError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.native import cpp
from mpsplit.package.inside.inspection import describe, inspect, tied
from mpsplit.package.manifest import GRAPH, RANK_TEXT, Manifest, rank_folder
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.sealed.opened import opened_rank
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.stored.embedding_rows import head_of
from mpsplit.package.stored.quantisation import QLinear
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.plan.price.sizes import Job, head_bytes
from mpsplit.runtime.load import load_engine
from tests.missing import needs
from tests.packages import edit_manifest, put

pytestmark = needs("the kernels")


@pytest.fixture
def converted(package_of, tmp_path):
    """(tensor, pipeline, kind, overrides) -> a package of the tied model."""

    def make(tensor, pipeline, kind="q4", overrides=""):
        package = shutil.copytree(package_of("qwen2-tied", tensor, pipeline), tmp_path / "package")
        convert(package, Alone(), find_pnnx(), Recipe.parse(kind, 32, overrides))
        return package

    return make


def table_of(package, rank):
    """The file of the embedding alone, if there is one."""
    folder = rank_folder(package, rank)
    name = WeightFiles.load(folder).embedding
    return folder / name if name else None


def head_of_rank(package, manifest, rank):
    rows = len(manifest.plan.shards[rank].head)
    return QLinear.of(head_of(Param.load(rank_folder(package, rank) / GRAPH), rows, manifest.facts.hidden))


def test_it_is_counted_once(converted):
    package = converted(2, 1)
    manifest = Manifest.load(package)
    inspected = inspect(package, manifest)
    assert manifest.dtype == HEAD_ROWS and table_of(package, 0) is table_of(package, 1) is None
    assert "lm_head=q8/32" in manifest.tools["recipe"] and tied(manifest).endswith("one matrix is both")
    assert not any("tied" in line for line in describe(inspected)["twice"])
    for rank, held in enumerate(inspected.ranks):
        rows, head = len(manifest.plan.shards[rank].head), head_of_rank(package, manifest, rank)
        assert (held.part("embedding").weights, held.part("embedding").weight_bytes) == (0, 0)
        assert held.part("head").weights == (rows + 1) * manifest.facts.hidden
        assert head.bytes == head_bytes(manifest.facts, rows, Job("q4")), "what a plan counts with"
        with opened_rank(package, manifest, rank):
            pass


def test_stages_have_their_own(converted):
    package = converted(1, 2)
    manifest = Manifest.load(package)
    assert manifest.dtype == "F32" and table_of(package, 0).stat().st_size == 4 * 131 * 64
    assert table_of(package, 1) is None
    assert head_of_rank(package, manifest, 1).bits == 8, "the same head, however it is split"
    assert "ranks have other rows" in tied(manifest)


@pytest.mark.parametrize(
    "kind, overrides, dtype, bits",
    [
        ("q4", "embed=q8,lm_head=q4", "Q8-32", 20),
        ("q4", "embed=q8/64", HEAD_ROWS, 8),
        ("q8", "embed=q8", HEAD_ROWS, 8),
        ("bf16", "embed=q8", "Q8-32", 16),
    ],
)
def test_what_is_asked_is_done(converted, kind, overrides, dtype, bits):
    package = converted(1, 1, kind, overrides)
    manifest = Manifest.load(package)
    assert (manifest.dtype, head_of_rank(package, manifest, 0).bits) == (dtype, bits)
    assert (table_of(package, 0) is None) == (dtype == HEAD_ROWS)
    assert dtype == HEAD_ROWS or tied(manifest).endswith("stored beside it (as asked)")
    assert np.isfinite(load_engine(package, Alone()).step([1, 2, 3], 0)).all()


def test_a_package_made_anew_loses_its_table(converted):
    package = converted(1, 1, "q4", "embed=q8,lm_head=q4")
    convert(package, Alone(), find_pnnx(), Recipe.parse("q8", 32))
    assert table_of(package, 0) is None
    load_engine(package, Alone())


def test_who_says_so_falsely(converted):
    package = converted(2, 1)
    as_it_was = (package / "manifest.json").read_text()

    def refused(change, told):
        (package / "manifest.json").write_text(as_it_was)
        edit_manifest(package, change)
        manifest = Manifest.load(package)
        with pytest.raises(PackageError, match=told), opened_rank(package, manifest, 0):
            pass

    refused(put("facts", "tied", False), "is not tied or not divided like it")
    shards = json.loads(as_it_was)["plan"]["shards"]
    shards[0]["head"]["stop"] = shards[1]["head"]["start"] = 10
    refused(put("plan", "shards", shards), "rank.txt is damaged .it says 'head_rows 96'")
    shards[0]["embed"]["stop"] = shards[1]["embed"]["start"] = 10
    refused(put("plan", "shards", shards), "rank.txt is damaged .it says")
    table = replace(WeightFiles.load(package / "rank-0"), embedding="weights/table.bin")
    (package / "rank-0" / table.embedding).write_bytes(bytes(64))
    (package / "manifest.json").write_text(as_it_was)
    (package / "rank-0" / RANK_TEXT).write_text(rank_text(Manifest.load(package), 0, table))
    listed = {"path": f"rank-0/{table.embedding}", "size": 64, "sha256": "0" * 64}
    refused(lambda data: data["ranks"][0]["files"].append(listed), "the embedding of rank 0 has 64 bytes")


def test_a_graph_with_more_between_the_head_and_the_logits(converted):
    package = converted(1, 1)
    graph, manifest = package / "rank-0" / GRAPH, Manifest.load(package)
    param = Param.load(graph)
    head = head_of(param, 131, 64)
    twice = {"0": "2", "1": "1", "2": "2.0"}
    more = [
        Layer("BinaryOp", "more", ("rows",), ("twice",), twice),
        Layer("BinaryOp", "m", ("twice",), ("logits",), twice),
    ]
    layers = [layer.rename({"logits": "rows"}) if layer == head else layer for layer in param.layers]
    graph.write_text(str(Param((*layers, *more))))
    told = f"{GRAPH} is damaged .*the head is BinaryOp"
    with pytest.raises(PackageError, match=told), opened_rank(package, manifest, 0):
        pass


@needs("the engine")
@pytest.mark.parametrize("kind", ["f32", "q8"])
@pytest.mark.parametrize(
    "name, old, new",
    [
        ("rank.txt", "embed_rows 131", "embed_rows 132"),
        ("rank.txt", "embed_start 0", "embed_start 1"),
        ("rank.txt", "head_rows 131", "head_rows 1310\nembed_rows 1310"),
        ("rank.txt", "hidden 64", "hidden 128"),
        ("rank.txt", "dtype HEAD", "dtype TAIL"),
        ("rank.txt", "dtype HEAD", "dtype F32"),
        ("fused.param", " logits ", " lights "),
    ],
)
def test_the_engine_believes_nothing(converted, kind, name, old, new):
    """Its C++ alone, as mpsplit-rank runs it."""
    package = converted(1, 1, kind)
    path = package / "rank-0" / name
    text = path.read_text()
    assert old in text
    path.write_text(
        text.replace("\nembed_rows 131\n", "\n").replace(old, new) if "\n" in new else text.replace(old, new)
    )
    with pytest.raises(PackageError):
        cpp.load("_engine").Engine(str(package / "rank-0"), cpp.load("_comm").null(), 1)
