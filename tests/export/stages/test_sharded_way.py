"""Networks with shards, all the way over ranks: row shards have the bits of a package without any,
and sums are close."""

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.model_source import find_model
from mpsplit.export.stages.compilers.ncnn_compiler import NcnnCompiler
from mpsplit.export.stages.convert_stages import convert_stages
from mpsplit.export.stages.partition_stages import partition_stages
from mpsplit.export.stages.stage_cuts import cut_model
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, Wish
from mpsplit.plan.stages.placing import even_ends
from mpsplit.runtime.pipeline.load_pipeline import load_pipeline
from mpsplit.runtime.pipeline.trial import Trials
from tests.cases import thorough
from tests.networks import make_network
from tests.staged_runs import inputs_of

RECIPES = {"f32": Recipe(), "q8": Recipe.parse("q8", 32)}
LENGTHS = (4, 19, 96)
# stages; linears whose rows are cut; then more of them, which make sums, or another graph of pnnx's
CASES = {
    "bert": ("4", {"intermediate.dense": 64, "layer.0.output.dense": 32, "pooler.dense": 32},
             {"layer.1.output.dense": 64, "attention.output.dense": 32}),
    "gpt2": ("3", {"mlp.c_fc": 128, "lm_head": 50}, {"mlp.c_proj": 128, "attn.c_proj": 32}),
    "bottleneck": ("2", {"narrow": 24, "wide": 40, "gate": 36}, {"last": 40, "down": 36}),
}  # fmt: skip


def wish(pattern: str, along: str, size: int, count: int) -> Wish:
    """Lists of different lengths, not one run each; the same for the same size."""
    chance = np.random.default_rng(size)
    owner = np.minimum(chance.integers(0, count + 1, size), count - 1)
    return Wish("--shards", pattern, along, count, tuple(np.flatnonzero(owner == shard) for shard in range(count)))


def model_of(name: str, folder, comm):
    if name == "bottleneck":
        return find_model("tests.export.stages.factories:bottleneck")
    if comm.rank == 0:
        make_network(name, folder / name)
    comm.exchange(None)
    return folder / name


def packaged(model, stages: str, package, comm, kind: str, wishes=()):
    cut = cut_model(model, stages, shards=wishes)
    ends = even_ends(cut.costs, min(comm.size, len(cut.stages)))
    partition_stages(cut, ends, package, comm, ranks=comm.size if wishes else None)
    with Trials() as trials:
        return convert_stages(package, comm, NcnnCompiler(find_pnnx(), RECIPES[kind]), trials)


@pytest.mark.mpi
@pytest.mark.seconds(240)
@pytest.mark.parametrize("kind", ["q8", *thorough("f32", ranks=4)])
@pytest.mark.parametrize("name", ["bert", *thorough(*(name for name in CASES if name != "bert"), ranks=4)])
def test_row_shards_change_no_bit_and_sums_little(world, shared_folder, name, kind):
    stages, rows, more = CASES[name]
    packages = {way: shared_folder / f"{name}-{kind}-{way}" for way in ("rows", "sums", "whole")}
    model = model_of(name, shared_folder, world)
    wishes = [wish(pattern, ROWS, size, world.size) for pattern, size in rows.items()]
    made = packaged(model, stages, packages["rows"], world, kind, wishes)
    if name != "gpt2":  # whose matrices lie turned: of many runs of columns all is read
        assert made.read[world.rank] == made.manifest.ranks[world.rank].weight_bytes
    run = load_pipeline(packages["rows"], world)
    inputs = inputs_of(run.pipeline, LENGTHS)
    if world.rank:
        run.follow()
    else:
        found = list(run.lead(inputs))
        run.end()
    sums = [wish(pattern, COLUMNS if size != 32 else ROWS, size, world.size) for pattern, size in more.items()]
    packaged(model, stages, packages["sums"], world, kind, [*wishes, *sums])
    run = load_pipeline(packages["sums"], world)
    if world.rank:
        run.follow()
        world.exchange(None)
        return
    close = list(run.lead(inputs))
    run.end()
    packaged(model, stages, packages["whole"], Alone(), kind)
    wanted = list(load_pipeline(packages["whole"], Alone()).lead(inputs))
    for whole, same, summed in zip(wanted, found, close, strict=True):
        for output, array in whole.items():
            assert array.tobytes() == same[output].tobytes(), f"{output} is {np.abs(array - same[output]).max()} apart"
            limit = (1e-4 if kind == "f32" else 0.1) * max(1.0, float(np.abs(array).max()))
            assert np.abs(array - summed[output]).max() <= limit
    world.exchange(None)
