"""The native engine against the stock one, and against files that are damaged.

On 1, 2 and 4 ranks.
"""

import ctypes
import gc
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import PackageError
from mpsplit.package.manifest import File, Manifest
from mpsplit.package.stored import embedding
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.runtime.load import ENGINES, load_engine
from tests.cases import splits
from tests.missing import needs
from tests.packages import weight_path

pytestmark = needs("the engine")
PROMPT = np.random.default_rng(3).integers(0, 131, 37).tolist()


@pytest.fixture(scope="module")
def quantised(world, package_of, tmp_path_factory):
    """kind -> a one-rank llama, stored so."""
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.package.stored.quantisation import Quantisation

    def make(kind):
        out = tmp_path_factory.getbasetemp() / f"llama-{kind}"
        if not out.exists():
            shutil.copytree(package_of("llama", 1, 1), out)
            convert(out, Alone(), find_pnnx(), Recipe(Quantisation.named(kind, 32)))
        return out

    return make


@pytest.fixture
def damaged(quantised, tmp_path):
    """A copy of the 4-bit llama, and the engine's attempt to load it."""
    package = shutil.copytree(quantised("q4"), tmp_path / "q4")
    return package, lambda: ENGINES["native"](package, Manifest.load(package), Alone(), 1)


@pytest.mark.parametrize("kind", ["f32", "q4", "q8", "bf16"])
def test_bits_do_not_depend_on_the_threads(quantised, package_of, kind):
    package = package_of("llama", 1, 1) if kind == "f32" else quantised(kind)
    manifest, found = Manifest.load(package), []
    for threads in (1, 2, 3, 5):
        engine = ENGINES["native"](package, manifest, Alone(), threads)
        rows = [engine.step(PROMPT, 0, True), *(engine.step([7], len(PROMPT) + i) for i in range(3))]
        found.append(np.concatenate(rows))
        shared = engine.shared_work.tolist()
        assert (threads > 1) == (shared[0] + shared[2] > 0) and shared[1] <= shared[0]
    assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.mpi
def test_pieces_of_a_prompt_and_tokens_are_the_stock_engines(world, package_of):
    folder = package_of("llama", *splits(world.size)[0])
    stock, native = (load_engine(folder, world, name) for name in ("stock", "native"))
    for start, stop in [(0, 37), (0, 5), (5, 6), (6, 22), (22, 37)]:
        for every_row in (True, False) if start == 0 else (False,):
            sent = stock.bytes_sent
            expected = stock.step(PROMPT[start:stop], start, every_row)
            expected_bytes, sent = stock.bytes_sent - sent, native.bytes_sent
            y = native.step(PROMPT[start:stop], start, every_row)
            assert native.bytes_sent - sent == expected_bytes
            assert y.shape == expected.shape and y.dtype == np.float32
            assert not y.size or np.abs(y - expected).max() < 1e-5


@pytest.mark.parametrize("kind", ["bf16", "q8", "q6", "q4"])
def test_quantised_weights_give_the_stock_engines_logits(quantised, kind):
    native, stock = (load_engine(quantised(kind), Alone(), name) for name in ("native", "stock"))
    a, b = native.step(PROMPT, 0, True), stock.step(PROMPT, 0, True)
    # an activation that lies between two integers may be rounded either way
    assert np.abs(a - b).max() < 0.05 and np.median(np.abs(a - b)) < 1e-3


@pytest.mark.parametrize("block", [32, 64])
def test_an_embedding_of_8_bits(package_of, tmp_path, block):
    """Both engines read the same rows: those of a float32 package of the rounded table give the
    same bits."""
    width, logits = 64, []
    for name in ("rounded", "stored"):
        package = shutil.copytree(package_of("llama", 1, 1), tmp_path / name)
        folder, manifest = package / "rank-0", Manifest.load(package)
        table = embedding.stored(np.fromfile(weight_path(folder, "embedding"), np.float32).reshape(-1, width), block)
        if name == "stored":
            manifest = replace(manifest, dtype=embedding.dtype_of(block))
        else:
            table = embedding.floats(table, width, block)
        table.tofile(weight_path(folder, "embedding"))
        (folder / "rank.txt").write_text(rank_text(manifest, 0, WeightFiles.load(folder)), encoding="utf-8")
        manifest.with_files([tuple(File.of(package, package / f.path) for f in manifest.ranks[0].files)], {}).save(
            package
        )
        logits += [load_engine(package, Alone(), engine).step(PROMPT, 0, True) for engine in ("native", "stock")]
    assert np.array_equal(logits[0], logits[2]) and np.array_equal(logits[1], logits[3])
    with open(weight_path(folder, "embedding"), "r+b") as file:
        file.truncate(table.size - 1)
    with pytest.raises(PackageError, match=f"rows take {table.size}"):
        ENGINES["native"](package, Manifest.load(package), Alone(), 1)


def test_memory_does_not_grow_with_the_answer(quantised):
    """But for attention's row of scores, once; the keys and values of 82 tokens would be 63 KB."""
    engine = load_engine(quantised("q4"), Alone(), "native")
    engine.step(PROMPT, 0)
    engine.step([1], 37)

    def grown() -> int:
        before = in_use()
        for position in range(38, 120):
            engine.step([position], position)
        return in_use() - before

    gc.collect()  # what others left would go meanwhile, and hide what is new
    gc.disable()
    try:
        assert grown() < 16384
        assert grown() < 1024  # bytes, of Python's own; malloc gives 32 for each token at least
    finally:
        gc.enable()


class Given(ctypes.Structure):
    """mallinfo2 of glibc."""

    _fields_ = [(f"n{i}", ctypes.c_size_t) for i in range(10)]


MALLINFO2 = ctypes.CDLL(None).mallinfo2
MALLINFO2.restype = Given


def in_use() -> int:
    """Bytes that malloc has given out. It makes nothing that would count itself."""
    return MALLINFO2().n7


@pytest.mark.parametrize("role", ["floats", "packed", "embedding"])
@pytest.mark.parametrize("left", [0, 0.5, -1])
def test_a_truncated_file_is_refused(damaged, role, left):
    package, load = damaged
    path = weight_path(package / "rank-0", role)
    data = path.read_bytes()
    path.write_bytes(data[: left if left < 0 else int(left * len(data))])
    with pytest.raises(PackageError, match="convert"):
        load()


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("fused.param", "4=0 5=", "4=99999999 5="),
        ("fused.param", "1=64 2=20", "1=6400 2=20"),
        ("fused.param", "2=20 3=32", "2=5 3=32"),
        ("fused.param", "Attention ", "Attentive "),
        ("rank.txt", "hidden 64", "hidden 64000"),
        ("rank.txt", "context", "contest"),
        ("rank.txt", "rank 0", "rank 1"),
        ("rank.txt", "packed 32768 weights/", "packed 32768 ../weights/"),
        ("rank.txt", "packed 32768 ", "packed 32769 "),
        ("rank.txt", "packed 32768 ", "packed 0 "),
        ("rank.txt", "packed 32768 ", "packed -32768 "),
        ("rank.txt", "packed 32768 ", "packed 2147483647 "),
        ("rank.txt", "packed 32768 ", "packed 65536 "),
        ("rank.txt", "floats weights/", "floats /"),
        ("rank.txt", "floats weights/", "float weights/"),
        ("rank.txt", "embedding weights/", "embedding weights/../"),
    ],
)
def test_a_damaged_text_is_refused(damaged, name, old, new):
    package, load = damaged
    path = package / "rank-0" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PackageError):
        load()
