"""A tied head stored once gives, to the bit, what it gives beside a table of the same rows.

On 1 and 2 ranks; test_families has float32 against transformers.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.native import cpp
from mpsplit.package.manifest import GRAPH, RANK_TEXT, File, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.stored.embedding_rows import embedding_rows, head_of
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.runtime.load import load_engine
from tests.missing import needs

ENGINES = ("native", "stock") if cpp.load("_engine") else ("stock",)
PROMPT = np.random.default_rng(5).integers(0, 131, 29)
# --quant, --quant-for -> bits of the head
BITS_OF_HEAD = {
    ("f32", ""): 0,
    ("bf16", ""): 16,
    ("q8", ""): 8,
    ("q4", ""): 8,
    ("q8", "lm_head=q6"): 6,
    ("q4", "lm_head=q4"): 20,
    ("q4", "lm_head=f32"): 0,
}

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.most(2),  # a rank of four has fewer inputs than a block
    needs("the kernels"),
]


@pytest.fixture(scope="module")
def once_and_twice(world, package_of, shared_folder):
    """(kind, overrides) -> a package without a table, and one with the same rows in it as
    float32."""

    def make(kind, overrides):
        floats = package_of("qwen2-tied", world.size, 1)
        once, twice = (shared_folder / f"{floats.name}-{kind}-{overrides}-{times}" for times in ("once", "twice"))
        if world.rank == 0:
            shutil.copytree(floats, once)
        world.exchange(None)
        convert(once, world, find_pnnx(), Recipe.parse(kind, 32, overrides))
        if world.rank == 0:
            with_table(shutil.copytree(once, twice))
        world.exchange(None)
        return once, twice

    return make


def with_table(package):
    manifest = Manifest.load(package)
    other, files = replace(manifest, dtype="F32"), []
    for rank, part in enumerate(manifest.ranks):
        folder, rows = rank_folder(package, rank), manifest.plan.shards[rank].embed
        table = replace(WeightFiles.load(folder), embedding="weights/table.bin")
        embedding_rows(package, manifest, rank)(np.arange(rows.start, rows.stop)).tofile(folder / table.embedding)
        (folder / RANK_TEXT).write_text(rank_text(other, rank, table), encoding="utf-8")
        paths = [folder / table.embedding, *(package / file.path for file in part.files)]
        files.append(tuple(File.of(package, path) for path in paths))
    other.with_files(files, {}).save(package)


@pytest.mark.parametrize("kind, overrides", BITS_OF_HEAD)
def test_the_same_logits(world, once_and_twice, kind, overrides):
    packages = once_and_twice(kind, overrides)
    manifest, shard = Manifest.load(packages[0]), Manifest.load(packages[0]).plan.shards[world.rank]
    folder = rank_folder(packages[0], world.rank)
    head = head_of(Param.load(folder / GRAPH), len(shard.head), manifest.facts.hidden)
    assert (head.number("2") if head.type == "QLinear" else 0) == BITS_OF_HEAD[kind, overrides]
    assert manifest.dtype == HEAD_ROWS and WeightFiles.load(folder).embedding is None
    for engine in ENGINES:
        once, twice = (load_engine(package, world, engine).step(PROMPT, 0, True) for package in packages)
        assert once.size and np.array_equal(once, twice)
