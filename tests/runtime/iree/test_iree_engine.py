"""Decoders through IREE, whose cache goes in and out of each part, against transformers."""

import json

import pytest

from mpsplit.errors import PackageError
from mpsplit.export.parts.convert_parts import convert_parts
from mpsplit.package.manifest import MANIFEST, RANK_FILES, rank_folder
from mpsplit.package.stored.parts_json import PARTS, RankParts
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import thorough
from tests.loops import finished, lead
from tests.missing import needs
from tests.models import make_model, transformers_answer
from tests.packages import partition_evenly
from tests.running import mpsplit, refused

pytestmark = [needs("iree"), pytest.mark.seconds(300)]
SMALL = dict(num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4)
PROMPTS = ((7,), (5, 3), tuple(range(2, 39)))
CASES = [*thorough(("llama", False), ranks=2), *thorough(("llama", True), ("granite", True))]
NEW, GREEDY = 9, Sampling(temperature=0)


def make_package(family: str, folder, world, tensor: int, pipeline: int):
    """And how many programs this rank compiled."""
    from mpsplit.export.stages.compilers.iree_compiler import IreeCompiler

    model, package = folder / family, folder / f"{family}-{tensor}-{pipeline}"
    if world.rank == 0 and not model.is_dir():
        make_model(family, model, changes=SMALL)
    world.exchange(None)
    if (package / MANIFEST).is_file():
        return model, package, 0
    partition_evenly(model, package, tensor, pipeline, world)
    compiler = IreeCompiler()
    made = convert_parts(package, world, compiler, None)
    assert made.read[world.rank] == made.manifest.ranks[world.rank].weight_bytes
    return model, package, len(compiler.programs)


@pytest.mark.mpi
@pytest.mark.most(2)
@pytest.mark.parametrize("family, across", CASES)
def test_its_tokens_are_those_of_transformers(world, shared_folder, family, across):
    """Of prompts shorter and longer than a step, several requests at once; layers are divided
    `across` ranks, or one rank goes on with what another hands over."""
    tensor, pipeline = (world.size, 1) if across else (1, world.size)
    model, package, compiled = make_package(family, shared_folder, world, tensor, pipeline)
    if family == "llama" and world.size == 1:
        assert compiled == 3  # rows of the embedding, one of two equal layers, the head

    loop = load_loop(package, world, chunk=16)

    def ask():
        found = finished(loop, [Request(prompt, NEW, GREEDY, ignore_eos=True) for prompt in PROMPTS])
        assert [end.token_ids for end in found] == [transformers_answer(model, prompt, NEW)[1] for prompt in PROMPTS]

    lead(loop, world, ask)


@pytest.mark.thorough
def test_the_package_runs_by_iree_alone(world, shared_folder):
    """What it cannot is refused in a line, and ncnn's files go where IREE's come."""
    model, package, _ = make_package("llama", shared_folder, world, 1, 1)
    rank = rank_folder(package, 0)
    assert not any((rank / name).exists() for name in RANK_FILES)
    ids = ("--prompt-ids", "1,2,3", "--max-new-tokens", 2)
    assert len(json.loads(mpsplit("run", package, *ids, "--temperature", 0, "--json"))["token_ids"]) <= 2
    assert "runs by it alone; leave --engine stock out" in refused("run", package, *ids, "--engine", "stock")
    assert "leave out --kv q8" in refused("run", package, *ids, "--kv", "q8")
    for arguments in (("inspect", package, "--graph"), ("inspect", "--diff", package, package)):
        assert "was compiled by IREE, and this reads ncnn's graphs" in refused(*arguments)
    assert "leave --quant out" in refused("convert", package, "--compiler", "iree", "--serial", "--quant", "q8")
    assert "compiled by iree, in float32" in mpsplit("inspect", package)
    assert "ok" in mpsplit("verify", package, model)
    mpsplit("convert", package, "--serial")
    assert not [path for path in rank.iterdir() if path.suffix == ".irpa"] and (rank / RANK_FILES[0]).exists()


def test_damaged_parts_are_refused(world, tmp_path):
    """Which take what nothing gives, or count the caches wrongly."""
    step = {
        "takes": ["hidden"],
        "gives": ["a"],
        "program": "part-00",
        "weights": "part-00",
        "attentions": [],
        "call": None,
    }
    built = {"compiler": "iree", "machine": "", "features": []}
    for change, why in (
        ({}, ""),
        ({"takes": ["b"]}, "takes b, which nothing gives before"),
        ({"attentions": [1]}, "not counted from 0"),
        ({"call": ["all_reduce", 0]}, "neither a part nor a collective"),
        ({"weights": "../part-00"}, "the name of a part"),
    ):
        (tmp_path / PARTS).write_text(json.dumps({"built": built, "steps": [step | change]}))
        if not why:
            assert list(RankParts.load(tmp_path).names()) == ["part-00.mlir", "part-00.vmfb", "part-00.irpa"]
            continue
        with pytest.raises(PackageError, match=why):
            RankParts.load(tmp_path)
