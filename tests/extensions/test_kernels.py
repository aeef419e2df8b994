"""QLinear against numpy in float64, on every instruction path that this machine runs; aarch64 under
an emulator."""

import mmap
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from tests.extensions.builds import build
from tests.extensions.kernel_cases import (
    BITS,
    BLOCKS,
    TABLE,
    TABLE_OF_2,
    TABLE_OF_3,
    VALUES,
    bounded,
    close,
    matrix,
    quantised,
    row_counts,
    seeds,
    shapes,
    silu,
)
from tests.missing import need


@bounded
@given(shape=shapes, rows=row_counts, seed=seeds)
def test_linear_is_the_product(kernels, path, shape, rows, seed):
    rng = np.random.default_rng(seed)
    weights, w = matrix(kernels, rng, shape)
    x = rng.standard_normal((rows, w.shape[1]), np.float32)
    x[rng.random(rows) < 0.1] = 0
    q = quantised(x, shape[3])
    y = kernels.linear(x, weights, path=path)
    close(y, q @ w.T, np.abs(q) @ np.abs(w.T))
    assert np.array_equal(y, kernels.linear(x, weights, threads=2, path=path))
    last = kernels.linear(x[-1:], weights, path=path)
    assert np.array_equal(y[-1:], last), "a row does not depend on the other rows"


@bounded
@given(shape=shapes, rows=row_counts, seed=seeds)
def test_what_is_added_and_the_gate(kernels, path, shape, rows, seed):
    rng = np.random.default_rng(seed)
    weights, w = matrix(kernels, rng, shape)
    gate, g = matrix(kernels, rng, (shape[0], shape[1], int(rng.choice(BITS)), shape[3]))
    x = rng.standard_normal((rows, w.shape[1]), np.float32)
    bias, residual = rng.standard_normal(len(w), np.float32), rng.standard_normal((rows, len(w)), np.float32)
    q = quantised(x, shape[3])
    product, bound = q @ w.T, np.abs(q) @ np.abs(w.T) + 10
    close(kernels.linear(x, weights, bias=bias, path=path), product + bias, bound)
    close(kernels.linear(x, weights, residual=residual, path=path), product + residual, bound)
    close(kernels.linear(x, weights, bias, residual, path=path), product + bias + residual, bound)
    for threads in (1, 2):
        y = kernels.gated(x, gate, weights, threads=threads, path=path)
        gate_bound = np.abs(q) @ np.abs(g.T) + 1
        close(y, silu(q @ g.T) * product, bound * (np.abs(silu(q @ g.T)) + gate_bound))


@bounded
@given(blocks=st.integers(1, 5), block=st.sampled_from(BLOCKS), rows=row_counts, seed=seeds)
def test_several_matrices_of_one_x(kernels, path, blocks, block, rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, blocks * block), np.float32)
    matrices = [
        matrix(kernels, rng, (n, blocks, bits, block))[0]
        for n, bits in ((33, 4), (17, 6), (5, 8), (64, TABLE), (18, TABLE_OF_3))
    ]
    together = kernels.linears(x, matrices, threads=2, path=path)
    for weights, y in zip(matrices, together, strict=True):
        assert np.array_equal(y, kernels.linear(x, weights, path=path))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
def test_extreme_integers_do_not_overflow(kernels, path, bits, block):
    values = np.repeat(VALUES[bits][[0, -1], None], 2 * block, axis=1)
    weights = kernels.Weights(
        kernels.pack_values(values, np.ones((2, 2), np.float32), bits, block), 2, 2 * block, bits, block
    )
    x = np.repeat(np.array([[127], [-127], [1]], np.float32), 2 * block, axis=1)
    assert np.array_equal(kernels.linear(x, weights, path=path), x @ values.T.astype(np.float32))


def test_what_is_not_finite_stays_so_in_its_row(kernels, path):
    weights, w = matrix(kernels, np.random.default_rng(0), (20, 2, 4, 32))
    x = np.ones((9, 64), np.float32)
    x[3, 5], x[8, 40] = np.nan, np.inf
    y = kernels.linear(x, weights, path=path)
    assert not np.isfinite(y[[3, 8]]).any() and np.isfinite(np.delete(y, [3, 8], 0)).all()
    tiny = np.full((1, 64), 1e-38, np.float32)
    assert np.array_equal(kernels.linear(tiny, weights, path=path), np.zeros((1, 20), np.float32))


def test_all_paths_agree_on_a_real_size(kernels):
    rng = np.random.default_rng(0)
    weights, w = matrix(kernels, rng, (1000, 43, 4, 128))
    x = rng.standard_normal((129, w.shape[1]), np.float32)
    plain = kernels.linear(x, weights, path="plain")
    for path in kernels.paths():
        np.testing.assert_allclose(
            kernels.linear(x, weights, threads=2, path=path), plain, atol=1e-5 * np.abs(plain).max()
        )


@bounded
@given(shape=shapes, seed=seeds)
def test_integers_and_scales_survive_packing(kernels, shape, seed):
    weights, w = matrix(kernels, np.random.default_rng(seed), shape)
    assert np.array_equal(weights.unpack(), w.astype(np.float32))
    picked = np.arange(len(w))[::-3].copy()
    assert np.array_equal(weights.unpack(picked), w[picked].astype(np.float32))
    with pytest.raises(ValueError, match="there is no such row"):
        weights.unpack(np.array([len(w)]))


@bounded
@given(shape=shapes, magnitude=st.sampled_from([1e-9, 1e-4, 1.0, 1e4, 1e8]), seed=seeds)
def test_float_weights_round_to_half_a_step(kernels, shape, magnitude, seed):
    n, blocks, bits, block = shape
    w = np.random.default_rng(seed).standard_normal((n, blocks * block)).astype(np.float32) * np.float32(magnitude)
    packed = kernels.pack(w, bits, block)
    assert packed.size == kernels.packed_bytes(n, blocks * block, bits, block) and packed.ctypes.data % 64 == 0
    assert np.array_equal(packed, kernels.pack(w, bits, block, threads=2))
    back = kernels.Weights(packed, n, blocks * block, bits, block).unpack()
    assert np.isfinite(back).all()
    if magnitude in (1e-4, 1.0, 1e4):
        # of a table its least value is the peak, and its largest is so much nearer to zero: half of
        # 28, of 14, of 10
        most, gap = {TABLE: (127, 28), TABLE_OF_3: (32, 14), TABLE_OF_2: (16, 11)}.get(bits, (2 ** (bits - 1) - 1, 1))
        peak = np.abs(w).reshape(n, blocks, block).max(-1)
        step = np.repeat(peak / most, block, axis=1)
        # half a step, what rounding the scale to 16 bits can clip off the largest, and the step of
        # subnormal scales
        assert (np.abs(back - w) <= step * (0.5001 * gap + most * 2**-11) + most * 2**-25).all()


def test_packed_bytes_are_the_documented_layout(kernels):
    """3 blocks of 32 at 6 bits: output 1's input 37 is in block 1, group 1; its 4 low bits in L1,
    its top 2 in H0 bits 4-5."""
    values = np.zeros((2, 96), np.int8)
    values[1, 37] = 27  # stored as 59 = 0b11_1011, and a zero as 32 = 0b10_0000
    packed = kernels.pack_values(values, np.array([[1, 2, 3], [4, 5, 6]], np.float32), 6, 32)
    assert packed.size == 2 * 64 + 3 * 6 * 64
    scales = packed[:64].view(np.float16)
    assert scales[[0, 1, 16, 17]].tolist() == [1, 4, 2, 5] and packed[832:896].view(np.float16)[:2].tolist() == [3, 6]
    lines = packed[64 + 384 :][:384].reshape(6, 64)
    byte = 4 * 1 + 37 % 4
    assert lines[1, byte] == 0b1011 and lines[4, byte] == 0b10_11_10_10 and lines[4, byte + 1] == 0b10_10_10_10


def test_a_table_has_the_values_of_gguf(kernels):
    """Blocks of IQ4_NL in random bytes, with scales of every kind that is finite: packed, and back
    as GGUF's own reader has them."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (33, 5, 18), np.uint8)
    scales = blocks[..., :2].copy().view(np.float16)
    scales[~np.isfinite(scales)] = 0
    blocks[..., :2] = scales.view(np.uint8)
    places = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    values = VALUES[TABLE][places].reshape(33, 160)
    weights = kernels.Weights(
        kernels.pack_values(values, scales[..., 0].astype(np.float32), TABLE, 32), 33, 160, TABLE, 32
    )
    expected = dequantize(blocks.reshape(33, -1), GGMLQuantizationType.IQ4_NL)
    assert np.array_equal(weights.unpack().view(np.uint32), expected.view(np.uint32))


def test_sizes_that_cannot_be_are_refused(kernels):
    packed = kernels.pack(np.ones((17, 96), np.float32), 4, 32)
    kernels.Weights(packed, 17, 96, 4, 32)
    with pytest.raises(ValueError, match=f"takes {packed.size} bytes, and there are {packed.size - 1}"):
        kernels.Weights(packed[:-1], 17, 96, 4, 32)
    for n, k, bits, block in ((33, 96, 4, 32), (17, 128, 4, 32), (17, 96, 6, 32), (2**31 - 1, 2**30, 8, 32)):
        with pytest.raises(ValueError, match="takes"):
            kernels.Weights(packed, n, k, bits, block)
    for n, k, bits, block in (
        (0, 96, 4, 32),
        (17, 0, 4, 32),
        (17, 96, 5, 32),
        (17, 96, 4, 48),
        (17, 96, 4, 64),
        (-1, 96, 4, 32),
    ):
        with pytest.raises(ValueError, match="block"):
            kernels.Weights(packed, n, k, bits, block)
    with pytest.raises(ValueError, match="multiple of 64"):
        kernels.Weights(np.concatenate([packed, packed])[4:][: packed.size + 1][1:], 17, 96, 4, 32)


def test_arguments_that_do_not_fit_are_refused(kernels):
    rng = np.random.default_rng(0)
    weights, other = (matrix(kernels, rng, (17, blocks, 4, 32))[0] for blocks in (2, 3))
    x = np.ones((3, 64), np.float32)
    with pytest.raises(ValueError, match="one k and one block"):
        kernels.linears(x, [weights, other])
    with pytest.raises(ValueError, match="one k and one block"):
        kernels.gated(x, other, weights)
    with pytest.raises(ValueError, match="no path sse"):
        kernels.linear(x, weights, path="sse")
    with pytest.raises(ValueError, match="threads"):
        kernels.linear(x, weights, threads=0)
    with pytest.raises(ValueError, match="rows"):
        kernels.linear(x[:0], weights)
    with pytest.raises(ValueError, match="value 2 is not in the table of 4 bits"):
        kernels.pack_values(np.full((1, 32), 2, np.int8), np.ones((1, 1), np.float32), TABLE, 32)
    with pytest.raises(ValueError, match="does not fit 4 bits"):
        kernels.pack_values(np.full((1, 32), 8, np.int8), np.ones((1, 1), np.float32), 4, 32)


@pytest.mark.parametrize("test, said", [("paths_test", "agree: plain neon\n"), ("attention_test", "agree\n")])
def test_aarch64_agrees_under_an_emulator(build_folder, test, said):
    need("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
    options = (
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    )
    program = build(build_folder / "aarch64", test, *options) / "kernels" / test
    libc = subprocess.check_output(["aarch64-linux-gnu-g++", "-print-file-name=libc.so.6"], text=True).strip()
    command = ["qemu-aarch64", "-L", Path(libc).resolve().parents[1], program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (said, 0), done


def test_a_matrix_of_more_than_two_gigabytes(kernels):
    """Of zeros that are no memory, but for its last panel."""
    k, panels = 8192, (1 << 31) // (16 * 8192 * 2) + 1
    last = np.random.default_rng(0).standard_normal((16, k)).astype(np.float32)
    packed = kernels.pack(last, 16, 32)
    matrix = np.frombuffer(mmap.mmap(-1, panels * len(packed)), np.uint8)
    assert len(matrix) == kernels.packed_bytes(16 * panels, k, 16, 32) > 1 << 31
    matrix[-len(packed) :] = packed
    x = np.ones((1, k), np.float32)
    y = kernels.linear(x, kernels.Weights(matrix, 16 * panels, k, 16, 32), threads=2)
    assert not y[0, :-16].any()
    assert np.array_equal(y[0, -16:], kernels.linear(x, kernels.Weights(packed, 16, k, 16, 32))[0])
