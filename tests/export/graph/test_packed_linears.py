"""Packages of 8, 6 and 4 bits: what is stored, and that the models in them still answer.

On 1, 2 and 4 ranks.
"""

import json
import shutil

import numpy as np
import pytest

from mpsplit.errors import ConvertError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.native import cpp
from mpsplit.package.manifest import Manifest
from mpsplit.package.param_text import Param
from mpsplit.package.stored.float_weights import read_weights
from mpsplit.package.stored.quantisation import QLinear, Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import Packed, WeightFiles
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits
from tests.loops import lead
from tests.missing import needs
from tests.models import EXAMPLE
from tests.packages import weight_path

pytestmark = [
    pytest.mark.mpi,
    needs("the kernels"),
]


@pytest.fixture(scope="module")
def quantised(world, package_of, shared_folder):
    """(model, kind, block) -> a quantised package beside the float one of the same split."""

    def make(model, kind, block=32):
        floats = package_of(model, *splits(world.size)[0])
        out = shared_folder / f"{floats.name}-{kind}-{block}"
        if world.rank == 0 and not out.exists():
            shutil.copytree(floats, out)
        world.exchange(None)
        convert(out, world, find_pnnx(), Recipe(Quantisation.named(kind, block)))
        return floats, out

    return make


@pytest.mark.parametrize(
    "kind, block, bits_a_weight",
    [("q8", 32, 8.5), ("q6", 32, 6.5), ("q4", 32, 4.5), ("i4", 32, 4.5), ("q3", 32, 3.5), ("q2", 32, 2.5)],
)
def test_what_is_stored(world, quantised, kind, block, bits_a_weight):
    floats, package = quantised(EXAMPLE, kind, block)
    folder = f"rank-{world.rank}"
    param = Param.load(package / folder / "model.param")
    was = Param.load(floats / folder / "model.param")
    shard = Manifest.load(package).plan.shards[world.rank]
    linears = 7 * len(shard.layers) + bool(len(shard.head))
    assert not param.of_type("Gemm") and len(param.of_type("QLinear")) == len(was.of_type("Gemm")) == linears
    weights = read_weights(was, weight_path(floats / folder))
    packed = Packed.load(package / folder, WeightFiles.load(package / folder))
    assert len(packed.arrays) == len(shard.layers) + bool(len(shard.head))
    for layer, before in zip(param.of_type("QLinear"), was.of_type("Gemm"), strict=True):
        q = QLinear.of(layer)
        shared = kind == "q3" and layer.name.endswith(("k_proj", "v_proj"))  # which cost little more
        assert q.bytes * 8 / (q.n * q.k) == bits_a_weight + shared
        held = cpp.kernels().Weights(packed.at(q.offset, q.bytes), q.n, q.k, q.bits, q.block)
        blocks = weights[before.name][0].reshape(q.n, -1, q.block)
        how = Quantisation(q.bits, q.block)
        step = np.abs(blocks).max(axis=-1, keepdims=True) * how.step
        error = np.abs(held.unpack().reshape(blocks.shape) - blocks)
        # half a step, and half a unit of the 16-bit scale at the largest integer
        assert (error <= step * (0.5 - how.lowest * 2**-11) + 1e-7).all()
    Manifest.load(package).check_files(package, world.rank)


@pytest.mark.most(2)
@pytest.mark.seconds(300)
@pytest.mark.parametrize("kind, lost", [("bf16", 1), ("q8", 1), ("q6", 3), ("q4", 6)])
def test_tiny_vicuna_still_answers(world, package_of, quantised, kind, lost):
    """bfloat16 and 8 bit within one answer of float32, 4 bit within 3 % of the 200."""
    lines = [json.loads(line) for line in (EXAMPLE / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    _, package = quantised(EXAMPLE, kind)
    loop = load_loop(package, world)

    def work():
        right = 0
        for line in lines:
            prompt = tuple(loop.text.chat([{"role": "user", "content": line["prompt"]}]))
            right += loop.generate(Request(prompt, 64)).text.strip() == line["answer"]
        print(f"\n{kind} on {world.size} ranks: {right / 2}% right")
        assert right >= 199 - lost

    lead(loop, world, work)


def test_a_family_with_biases(world, quantised):
    """The quantised graph against the float one: as close as 8 bits are."""
    from mpsplit.runtime.loop.all_logits import all_logits

    if world.size == 4:
        return  # half of 96 MLP columns make no whole blocks
    floats, package = quantised("llama-bias", "q8")
    prompt = tuple(range(20))
    logits = []
    for folder in (floats, package):
        logits.append(all_logits(load_loop(folder, world).engine, world, prompt))
    if world.rank == 0:
        assert np.abs(logits[0] - logits[1]).max() < 0.05 * np.abs(logits[0]).max()


def test_a_block_that_does_not_fit_says_which_would(world, package_of, tmp_path):
    if world.size > 1:
        return  # one rank can tell
    package = shutil.copytree(package_of("llama", 1, 1), tmp_path / "p")
    with pytest.raises(
        ConvertError,
        match="self_attn.q_proj has 64 inputs on this rank, which are no multiple of the block of 128; use --block 32",
    ):
        convert(package, world, find_pnnx(), Recipe(Quantisation.named("q4", 128)))
