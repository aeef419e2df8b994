"""Another plan for a package: the bytes of a conversion for that plan, without the model; or one
line that says why not."""

import functools
import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import PackageError, PlanError
from mpsplit.export import convert as converting
from mpsplit.export.convert import convert
from mpsplit.export.graph.fuse import fuse
from mpsplit.export.graph.packed_linears import quantise
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.graph.rank_graphs import Graphs
from mpsplit.export.model.model_origin import Origin
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.export.repartition import needed, repartition
from mpsplit.export.weights import weight_stream
from mpsplit.package.manifest import FORM, FUSED, GRAPH, PARTITION, WRITTEN, Manifest, Seal
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.stored.embedding_rows import embedding_rows
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.package.whole_files import read_json, sha256, write_json
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Share, even_plan, lay_out
from tests.cases import thorough
from tests.missing import needs
from tests.models import EXAMPLE, make_model
from tests.packages import weight_path
from tests.running import killed_after, mpsplit

pytestmark = [
    pytest.mark.seconds(400),
    needs("the kernels"),
]
# heads of 32 inputs on half as many KV heads; MLP columns that 2 and 3 ranks divide into whole
# blocks of 64, 3 of 128
SIZES = dict(hidden_size=192, num_attention_heads=6, num_key_value_heads=3, intermediate_size=384, num_hidden_layers=2)
PLANS = {
    "2": lambda facts: even_plan(facts, 2, 1),
    "3": lambda facts: even_plan(facts, 3, 1),
    "1": lambda facts: even_plan(facts, 1, 1),
    "a pipeline": lambda facts: lay_out(
        facts, [(1, [Share(6, 384, 131)]), (1, [Share(6, 128, 0, 31), Share(0, 256, 0, 100)])]
    ),
}
MIXED = Recipe.parse("q4", 32, "lm_head=q8,embed=q8,layers.0.mlp.down_proj=q6/64", "mse")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return functools.cache(
        lambda family: make_model(family, tmp_path_factory.mktemp("model") / family, "float16", SIZES)
    )


@pytest.fixture(scope="module")
def traced(models, tmp_path_factory):
    """(family, plan) -> what partition makes of it."""

    @functools.cache
    def make(family: str, plan: str):
        out = tmp_path_factory.mktemp("traced") / "package"
        facts = ModelFacts.from_config(read_config(models(family)))
        partition(models(family), PLANS[plan](facts), out, Alone())
        return out

    return make


@pytest.fixture(scope="module", autouse=True)
def graphs_once():
    """pnnx runs once for each rank of each plan, however its weights are stored."""
    make = converting.make_graphs
    known = {}

    def quantised(told, package, rank, pnnx, recipe, readable):
        key = told.model, told.plan, rank
        known[key] = known.get(key) or make(told, package, rank, pnnx, Recipe()).param
        param = quantise(known[key], recipe, told.facts.family)
        return Graphs(param, fuse(param, told.plan.shards[rank].head.start))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "make_graphs", quantised)
        yield


@pytest.fixture
def made(traced, tmp_path):
    """(family, plan, recipe, name) -> a package converted from the model."""

    def make(family: str, plan: str, recipe: Recipe, name: str):
        out = shutil.copytree(traced(family, plan), tmp_path / name / "package")
        convert(out, Alone(), find_pnnx(), recipe)
        return out

    return make


@pytest.fixture
def moved(traced, tmp_path):
    """(family, old package, plan) -> the package that repartition makes where it was interrupted
    after tracing."""

    def make(family: str, old, plan: str):
        out = tmp_path / "new" / "package"
        if not out.exists():
            shutil.copytree(traced(family, plan), out)
            told = read_json(out / PARTITION, "")
            write_json(out / PARTITION, told | {"repartitioned_from": Manifest.load(old).identity})
        return out, repartition(old, Manifest.load(out, PARTITION).plan, out, Alone(), find_pnnx())

    return make


def digests_by_role(package) -> dict[tuple, str]:
    """Of every rank's graphs and weights. What a file is called by follows from what it was made
    of."""
    found = {}
    for folder in sorted(package.glob("rank-*")):
        files = WeightFiles.load(folder)
        names = {"floats": files.floats, "embedding": files.embedding, **dict(files.packed), GRAPH: GRAPH, FUSED: FUSED}
        found |= {(folder.name, role): sha256(folder / name) for role, name in names.items() if name}
    return found


def check_same(new, direct, old) -> None:
    """The bytes of a direct conversion, but for names and what the manifest says of where it is
    from."""
    assert digests_by_role(new) == digests_by_role(direct)
    told = Manifest.load(new)
    assert told.repartitioned_from == Manifest.load(old).identity
    bare = [manifest.with_files([()] * manifest.plan.ranks, {}) for manifest in (told, Manifest.load(direct))]
    assert replace(bare[0], repartitioned_from=None) == bare[1]


@pytest.mark.parametrize(
    "family, kinds, before, after",
    [
        ("llama-bias", MIXED, "2", "3"),
        ("llama-bias", Recipe(), "2", "a pipeline"),
        ("llama-bias", Recipe.parse("q6", 32), "a pipeline", "3"),
        *thorough(
            ("qwen2-tied", Recipe.parse("f32", 32, "lm_head=q4,embed=q8"), "2", "1"),
            ("llama-bias", Recipe.parse("q8", 64), "3", "2"),
            ("llama-bias", Recipe.parse("bf16", 32), "a pipeline", "2"),
            ("llama-bias", Recipe.parse("bf16", 32), "3", "a pipeline"),
            ("qwen2-tied", Recipe.parse("q4", 32), "1", "2"),
        ),
    ],
)
def test_the_bytes_of_a_conversion_for_the_new_plan(made, moved, family, kinds, before, after):
    old = made(family, before, kinds, "old")
    files = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    new, told = moved(family, old, after)
    check_same(new, made(family, after, kinds, "direct"), old)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == files
    held = sum(file.size for part in Manifest.load(old).ranks for file in part.files if file.path.endswith(".bin"))
    assert 0 < sum(told.read) < 3 * held


@pytest.mark.parametrize("kind", ["q4", *thorough("bf16", "f32")])
@pytest.mark.parametrize("before, after", [("2", "a pipeline"), *thorough(("a pipeline", "3"))])
def test_a_tied_embedding_reads_as_before(made, moved, kind, before, after):
    """Rows of the head become a table where it is on another rank; a table of its own, which is
    finer than the head, stays."""
    old = made("qwen2-tied", before, Recipe.parse(kind, 32), "old")
    new, _ = moved("qwen2-tied", old, after)
    assert np.array_equal(embeddings(new), embeddings(old))
    assert Manifest.load(new).dtype != HEAD_ROWS
    have, want = (
        digests_by_role(package) for package in (new, made("qwen2-tied", after, Recipe.parse(kind, 32), "direct"))
    )
    assert all(have[place] == want[place] for place in have | want if place[1] != "embedding")


def embeddings(package):
    manifest = Manifest.load(package)
    every = np.arange(manifest.facts.vocabulary)
    return sum(embedding_rows(package, manifest, rank)(every) for rank in manifest.plan.stages[0])


@pytest.mark.thorough
def test_keys_and_values_stay_as_they_are_stored(tmp_path):
    """What convert would store in 6 bits by itself may have 4 in a package."""
    folder, kinds = tmp_path / "few", Recipe.parse("q4", 32, "v_proj=q4")
    facts = ModelFacts.from_config(
        read_config(make_model("llama", folder, "float16", SIZES | {"intermediate_size": 768, "num_hidden_layers": 1}))
    )
    old, new, direct = (tmp_path / name for name in ("old", "new", "direct"))
    for out, ranks in ((old, 1), (direct, 3)):
        partition(folder, even_plan(facts, ranks, 1), out, Alone())
        convert(out, Alone(), find_pnnx(), kinds)
    assert "k_proj=q6/32" in Manifest.load(old).tools["recipe"]
    repartition(old, even_plan(facts, 3, 1), new, Alone(), find_pnnx())
    check_same(new, direct, old)


def test_what_only_moves_is_linked(made, moved):
    old = made("llama-bias", "1", Recipe.parse("q4", 32), "old")
    new, told = moved("llama-bias", old, "a pipeline")
    check_same(new, made("llama-bias", "a pipeline", Recipe.parse("q4", 32), "direct"), old)
    assert weight_path(new / "rank-0", "packed").samefile(weight_path(old / "rank-0", "packed"))
    assert told.read[0] < weight_path(old / "rank-0", "packed").stat().st_size


def test_a_split_block_is_refused_before_the_work(made, tmp_path):
    old = made("llama-bias", "3", Recipe.parse("q4", 32, "down_proj=q4/128"), "old")
    facts, out = Manifest.load(old).facts, tmp_path / "out"
    with pytest.raises(
        PlanError,
        match=(
            r"cuts model.layers.0.mlp.down_proj.weight at input 192 \(rank 0\), inside the block 128..256 whose 128"
            r" weights share a "
            r"scale, and 3 more like it; the nearest cut that does not is at 256; use --tensor 1 --pipeline 2, or"
            r" partition the original for this plan and"
            r" convert it --block 32"
        ),
    ):
        repartition(old, even_plan(facts, 2, 1), out, Alone(), find_pnnx())
    assert not out.exists()


def test_killed_at_any_moment_and_started_again(made, moved, monkeypatch):
    monkeypatch.setattr(weight_stream, "PIECE", 1 << 14)
    write = weight_stream._Continued.write
    monkeypatch.setattr(weight_stream._Continued, "write", lambda *given: (write(*given), time.sleep(0.003)))
    old = made("llama-bias", "2", MIXED, "old")
    direct = made("llama-bias", "3", MIXED, "direct")
    killed = sum(killed_after(delay, lambda: moved("llama-bias", old, "3")) for delay in (0.05, 0.1, 0.2, 0.4))
    new, told = moved("llama-bias", old, "3")
    check_same(new, direct, old)
    assert not list(new.glob("rank-*/weights/.*.partial")) and killed
    assert moved("llama-bias", old, "3")[1].read == (0, 0, 0)


def test_what_stands_in_the_way_is_said(made, tmp_path):
    old = made("llama-bias", "2", Recipe(), "old")
    manifest, pnnx = Manifest.load(old), find_pnnx()
    try_it = lambda out=tmp_path / "out": repartition(old, even_plan(manifest.facts, 3, 1), out, Alone(), pnnx)  # noqa: E731
    for out in (old, old / "inside", old.parent):
        with pytest.raises(PackageError, match="is not beside .*, which stays as it is; name another directory"):
            try_it(out)
    replace(manifest, config=None).save(old)
    with pytest.raises(PackageError, match=r"keeps no config.json, as it was made by an earlier mpsplit"):
        try_it()
    replace(manifest, config=None, tools={**manifest.tools, FORM: WRITTEN}).save(old)
    with pytest.raises(PackageError, match="graphs that a script wrote .*; run that script again with another plan"):
        try_it()
    replace(manifest, sealed=Seal("AES-256-GCM", 4096, "0" * 32, "0" * 32, "0" * 64)).save(old)
    with pytest.raises(PackageError, match="is encrypted, and what repartition writes is not: `mpsplit decrypt` it"):
        try_it()
    manifest.save(old)
    with open(weight_path(old / "rank-0"), "r+b") as file:
        file.write(b"other")
    with pytest.raises(PackageError, match=r"\.bin was changed: its sha256 differs from the manifest's"):
        try_it()
    shutil.rmtree(old / "rank-1")
    with pytest.raises(
        PackageError,
        match=r"rank 0, 1, 2 comes from files of rank 1 of .*, which are not on this host; copy .*rank-1 here",
    ):
        try_it()
    assert not (tmp_path / "out").exists()


def test_a_rank_needs_what_it_shares(models):
    facts = ModelFacts.from_config(read_config(models("llama-bias")))
    thirds, pipeline = even_plan(facts, 3, 1), even_plan(facts, 1, 2)
    assert needed(thirds, even_plan(facts, 1, 1).shards) == [0, 1, 2]
    assert [needed(thirds, [shard]) for shard in even_plan(facts, 2, 1).shards] == [[0, 1], [1, 2]]
    assert [needed(pipeline, [shard]) for shard in pipeline.shards] == [[0], [1]]


def test_it_answers_as_before(tmp_path):
    """From the command line, on ranks of their own, with a real model and its tokenizer."""
    old, new = tmp_path / "two", tmp_path / "three"
    for words in (
        ("partition", EXAMPLE, "--out", old, "--ranks", "2", "--serial"),
        ("convert", old, "--quant", "q4", "--serial", "--no-calibrate"),
    ):
        mpsplit(*words)
    asked = ("--prompt", "What is 57+86?", "--json")
    before = json.loads(mpsplit("run", old, *asked))
    said = mpsplit("repartition", old, "--ranks", "3", "--serial", "--out", new)
    assert "rank 2: " in said and f" of rank 1 of {old}" in said and "every weight as it was" in said
    after = json.loads(mpsplit("run", new, *asked))
    assert after["token_ids"] == before["token_ids"] and after["text"] == before["text"]
    have, want = Manifest.load(new), Manifest.load(old)
    assert (have.tokenizer, have.config, have.eos, have.model) == (want.tokenizer, want.config, want.eos, want.model)
    # convert finds the model there, for other kinds of weights
    assert Origin.load(new) == Origin.load(old)
