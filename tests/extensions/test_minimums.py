"""Blocks with a minimum, as GGUF's Q4_1 and Q5_1 have them: kept to the bit, and multiplied by on
every path."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from tests.extensions.kernel_cases import BLOCKS, bounded, close, matrix, quantised, row_counts, seeds, silu

LARGEST = {36: 15, 37: 31}  # by the bits that say: 4 or 5 of them, above a minimum
BITS = tuple(LARGEST)
shapes = st.tuples(st.sampled_from([1, 16, 17, 100]), st.integers(1, 5), st.sampled_from(BITS), st.sampled_from(BLOCKS))


def drawn(kernels, rng, shape):
    """(Weights, its values in float64, the sum of what each is made of without signs)."""
    n, blocks, bits, block = shape
    values = rng.integers(0, LARGEST[bits] + 1, (n, blocks * block), np.int8)
    numbers = rng.normal(0, 0.1, (n, 2 * blocks)).astype(np.float16).astype(np.float32)
    weights = kernels.Weights(kernels.pack_values(values, numbers, bits, block), n, blocks * block, bits, block)
    scales, minimums = np.repeat(numbers.astype(float).reshape(n, blocks, 2), block, axis=1).transpose(2, 0, 1)
    return weights, values * scales + minimums, np.abs(values * scales) + np.abs(minimums)


@bounded
@given(shape=shapes, rows=row_counts, seed=seeds)
def test_products(kernels, path, shape, rows, seed):
    rng = np.random.default_rng(seed)
    (weights, w, size), (gate, g, gate_size) = (drawn(kernels, rng, shape) for _ in range(2))
    x = rng.standard_normal((rows, w.shape[1]), np.float32)
    q = quantised(x, shape[3])
    close(kernels.linear(x, weights, threads=2, path=path), q @ w.T, np.abs(q) @ size.T)
    bound = np.abs(q) @ size.T * (1 + np.abs(q) @ gate_size.T)
    close(kernels.gated(x, gate, weights, path=path), silu(q @ g.T) * (q @ w.T), bound)


@bounded
@given(blocks=st.integers(1, 5), block=st.sampled_from(BLOCKS), rows=row_counts, seed=seeds)
def test_beside_matrices_without(kernels, path, blocks, block, rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, blocks * block), np.float32)
    made = (drawn, matrix, drawn, matrix)
    matrices = [
        make(kernels, rng, (33, blocks, bits, block))[0] for make, bits in zip(made, (36, 8, 37, 4), strict=True)
    ]
    for weights, y in zip(matrices, kernels.linears(x, matrices, threads=2, path=path), strict=True):
        assert np.array_equal(y, kernels.linear(x, weights, path=path))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
def test_extreme_integers_do_not_overflow(kernels, path, bits, block):
    values = np.repeat(np.array([[0], [LARGEST[bits]]], np.int8), 2 * block, axis=1)
    packed = kernels.pack_values(values, np.array([[1, -8] * 2, [1, 8] * 2], np.float32), bits, block)
    x = np.repeat(np.array([[127], [-127], [1]], np.float32), 2 * block, axis=1)
    expected = x @ (values + np.array([[-8], [8]])).T.astype(np.float32)
    assert np.array_equal(kernels.linear(x, kernels.Weights(packed, 2, 2 * block, bits, block), path=path), expected)


@pytest.mark.parametrize("kind, bits, size", [("Q4_1", 36, 20), ("Q5_1", 37, 24)])
def test_blocks_of_gguf_are_kept_to_the_bit(kernels, kind, bits, size):
    """Random bytes, with scales and minimums of every kind that is finite."""
    blocks = np.random.default_rng(0).integers(0, 256, (33, 5, size), np.uint8)
    numbers = blocks[..., :4].copy().view(np.float16)
    numbers[~np.isfinite(numbers)] = 0
    blocks[..., :4] = numbers.view(np.uint8)
    places = np.concatenate([blocks[..., -16:] & 15, blocks[..., -16:] >> 4], axis=-1)
    if bits == 37:
        places |= np.unpackbits(blocks[..., 4:8], axis=-1, bitorder="little") << 4
    values, scales = places.astype(np.int8).reshape(33, 160), numbers.astype(np.float32).reshape(33, 10)
    weights = kernels.Weights(kernels.pack_values(values, scales, bits, 32), 33, 160, bits, 32)
    expected = dequantize(blocks.reshape(33, -1), GGMLQuantizationType[kind])
    assert np.array_equal(weights.unpack().view(np.uint32), expected.view(np.uint32))
    for there, given_before in zip(weights.integers(), (values, scales), strict=True):
        assert np.array_equal(there, given_before)


@pytest.mark.parametrize("bits", BITS)
def test_nothing_is_rounded_to_them(kernels, bits):
    rows = np.ones((1, 32), np.float32)
    for make in (kernels.pack, kernels.integers):
        with pytest.raises(ValueError, match="with a minimum .*come as integers alone"):
            make(rows, bits, 32)
    with pytest.raises(ValueError, match="with a minimum .*come as integers alone"):
        kernels.gptq(rows, np.eye(32, dtype=np.float32), bits, 32)
    values, numbers = rows.astype(np.int8), np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match=r"with minimums \[n, 2 k / block\]"):
        kernels.pack_values(values, numbers[:, :1].copy(), bits, 32)
    with pytest.raises(ValueError, match=f"does not fit {bits - 32} bits"):
        kernels.pack_values(values * (LARGEST[bits] + 1), numbers, bits, 32)
    with pytest.raises(ValueError, match="does not fit"):
        kernels.pack_values(-values, numbers, bits, 32)
