"""ncnn's own block-quantised Gemm: what its wheel makes of our bytes, the bytes made piece by
piece, and packages that need no kernels."""

import shutil

import ncnn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.weights import weight_stream
from mpsplit.export.weights.encode import Encoder
from mpsplit.export.weights.gemm_blocks import GemmBlocks, bit_strings, divisors
from mpsplit.export.weights.weight_contents import Array
from mpsplit.native import cpp
from mpsplit.package.manifest import GRAPH, rank_folder
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import read_weights, write_weights
from mpsplit.package.stored.quantisation import BLOCKS, QLinear, Quantisation, kind_of
from mpsplit.package.stored.recipe import NCNN, Recipe
from mpsplit.package.stored.weight_files import Packed, WeightFiles
from mpsplit.plan.cuts import Part
from mpsplit.plan.shards import Range
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Generation, Request
from tests.cases import splits, thorough
from tests.loops import lead
from tests.missing import needs
from tests.models import EXAMPLE, make_model

needs_the_kernels = needs("the kernels")
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BITS = (8, 6, 4)


def values_of(strings: np.ndarray, bits: int) -> np.ndarray:
    """Bit by bit, as the format says: uint8 [n, k * bits / 8] -> int8 [n, k]"""
    each = np.unpackbits(strings, axis=1, bitorder="little").reshape(len(strings), -1, bits).astype(int)
    found = (each << np.arange(bits)).sum(axis=-1)
    return np.where(found < 2 ** (bits - 1), found, found - 2**bits).astype(np.int8)


def dequantised(strings: np.ndarray, divided_by: np.ndarray, how: Quantisation) -> np.ndarray:
    values = values_of(strings, how.bits)
    return values / np.repeat(divided_by, how.block, axis=1)


def rounded(x: np.ndarray, block: int) -> np.ndarray:
    """Activations as ncnn's kernel of 8 bits reads them."""
    blocks = x.reshape(len(x), -1, block)
    step = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), 1e-30) / 127
    return (np.rint(blocks / step) * step).reshape(x.shape)


def product(folder, gemm: Layer, arrays: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """By ncnn's wheel, of files that it loads."""
    param = Param((Layer("Input", "in", (), ("x",)), gemm))
    (folder / GRAPH).write_text(str(param), encoding="utf-8")
    write_weights(param, {gemm.name: arrays}, folder / "floats.bin")
    net = ncnn.Net()
    net.opt.num_threads = 1
    assert net.load_param(str(folder / GRAPH)) == 0 and net.load_model(str(folder / "floats.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(x).clone())
    return np.array(extractor.extract("y")[1])


@bounded
@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 20),
    st.sampled_from(BITS),
    st.sampled_from(BLOCKS),
    st.booleans(),
)
def test_ncnn_gives_the_product_with_what_the_bytes_stand_for(tmp_path, n, blocks, rows, bits, block, biased):
    k, how = blocks * block, Quantisation(bits, block)
    rng = np.random.default_rng([n, k, rows, bits])
    x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, k), (n,)))
    values = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k), np.int8)
    scales = rng.uniform(-0.1, 0.1, (n, blocks)).astype(np.float16).astype(np.float32)
    scales[0, 0] = 0  # as of a block of zeros
    values[0, :block] = 0
    strings, by = bit_strings(values, bits), divisors(scales)
    params = {"2": "0", "3": "1", "4": "0", "5": "1", "6": "1", "8": str(n), "9": str(k), "18": str(how.term)}
    gemm = Layer("Gemm", "g", ("x",), ("y",), params | {"10": "4" if biased else "-1"})
    y = product(tmp_path, gemm, [strings, *[bias] * biased, by], x)
    w = dequantised(strings, by, how)
    assert np.array_equal(values_of(strings, bits), values)
    assert np.allclose(w, values * np.repeat(scales, block, axis=1), rtol=1e-6)
    expected = (rounded(x, block) if bits == 8 else x) @ w.T + bias * biased
    # one activation that lies between two integers
    step = 0.1 * 2 ** (bits - 1) / 127 * np.abs(x).max()
    assert np.allclose(y, expected, rtol=1e-4, atol=step if bits == 8 else 1e-3)
    assert np.median(np.abs(y - expected)) < 1e-3


@needs_the_kernels
@pytest.mark.parametrize("bits", BITS)
def test_pieces_are_read_once_and_after_an_interruption_are_the_same(tmp_path, monkeypatch, bits):
    monkeypatch.setattr(weight_stream, "PIECE", 1 << 10)
    monkeypatch.setattr("mpsplit.export.weights.weight_contents.ROWS_AT_ONCE", 32 * 64 * 4)
    checkpoint = Checkpoint(make_model("llama", tmp_path / "model", changes=dict(intermediate_size=256)))
    name, part, how = "model.layers.0.mlp.gate_proj.weight", Part(0, Range(13, 200)), Quantisation(bits, 32)
    rows = checkpoint.floats(name, part)
    values, scales = cpp.kernels().integers(rows, bits, 32)
    strings, by = bit_strings(values, bits), divisors(scales)
    expected, made = strings.tobytes() + by.tobytes(), tmp_path / "made"

    def write() -> int:
        blocks, before = GemmBlocks(Encoder(how)), checkpoint.bytes_read
        kinds = {"integers": strings, "scales": by}
        arrays = [Array(name, part, rows.shape, kind, of.nbytes, blocks=blocks) for kind, of in kinds.items()]
        assert len(list(arrays[0].pieces())) > 3
        weight_stream.write(made, arrays, checkpoint, lambda name, count: None)
        assert made.read_bytes() == expected and not blocks.waiting
        return checkpoint.bytes_read - before

    assert write() == rows.nbytes
    for cut in np.linspace(0, len(expected), 17, dtype=int):
        kept = int(max(0, cut - 1) // 1024 * 1024)
        made.write_bytes(expected[:kept] + b"x" * (cut - kept))  # the last piece may be anything
        assert write() <= 2 * rows.nbytes


@pytest.fixture(scope="module")
def stored(world, package_of, shared_folder):
    """(model, kind, layout) -> a package of the first split."""

    def make(model, kind, layout, scales="minmax"):
        floats = package_of(model, *splits(world.size)[0])
        out = shared_folder / f"{floats.name}-{kind}-{layout}-{scales}"
        if world.rank == 0 and not out.exists():
            shutil.copytree(floats, out)
        world.exchange(None)
        convert(out, world, find_pnnx(), Recipe.parse(kind, 32, scales=scales, layout=layout))
        return out

    return make


@pytest.mark.mpi
@pytest.mark.most(2)
@needs_the_kernels
@pytest.mark.parametrize("scales", ["minmax", *thorough("mse")])
def test_the_weights_are_those_of_our_own_layout(world, stored, scales):
    folders = [rank_folder(stored(EXAMPLE, "i4", layout, scales), world.rank) for layout in (NCNN, "native")]
    blocks, packed = (Param.load(folder / GRAPH) for folder in folders)
    files = [WeightFiles.load(folder) for folder in folders]
    assert kind_of(blocks) == kind_of(packed) == "i4" and not files[0].packed
    held, matrices = read_weights(blocks, folders[0] / files[0].floats), Packed.load(folders[1], files[1])
    for layer in packed.of_type("QLinear"):
        q, (strings, by) = QLinear.of(layer), held[layer.name]
        own = cpp.kernels().Weights(matrices.at(q.offset, q.bytes), q.n, q.k, q.bits, q.block)
        assert np.allclose(dequantised(strings, by, Quantisation(4, 32)), own.unpack(), rtol=1e-6, atol=0)


@pytest.mark.mpi
@pytest.mark.most(2)
@needs_the_kernels
@pytest.mark.parametrize(
    "model, kind", [(EXAMPLE, "q8"), ("llama-bias", "q4"), *thorough((EXAMPLE, "q6"), (EXAMPLE, "q4"))]
)
def test_both_engines_say_the_same(world, stored, model, kind):
    """Up to a token that they find as likely as the other's: their sums have another order, and a
    rounding may fall to the other side."""
    package, said = stored(model, kind, NCNN), []
    prompts = [tuple(np.random.default_rng(0).integers(0, 131, length).tolist()) for length in (1, 9, 24)]

    def answer(loop, prompt):
        events = []
        loop.submit(Request(prompt, 8, ignore_eos=True, logprobs=5), events.append)
        while not (events and isinstance(events[-1], Generation)):
            loop.turn()
        return [chosen for event in events[:-1] for chosen in event.chosen]

    for engine in ("native", "stock")[cpp.load("_engine") is None :]:
        loop = load_loop(package, world, engine=engine)
        lead(loop, world, lambda loop=loop: said.append([answer(loop, prompt) for prompt in prompts]))
    apart = []
    for ours, theirs in zip(said[0], said[-1], strict=True) if world.rank == 0 else ():
        assert len(ours) == len(theirs) == 8
        for a, b in zip(ours, theirs, strict=True):
            apart.append(abs(a.logprob - b.logprob))
            if a.id != b.id:
                apart.append(abs(dict(a.likely)[b.id] - a.logprob))
                break
    assert world.rank or (max(apart) < 0.1 and np.median(apart) < 1e-5)
