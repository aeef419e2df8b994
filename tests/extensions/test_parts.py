"""Blocks of 256 whose parts have scales of their own, as GGUF's K types have them: kept to the bit,
and multiplied by on every path."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.export.model.gguf.gguf_numbers import integers
from tests.extensions.kernel_cases import bounded, close, matrix, quantised, row_counts, seeds, silu
from tests.ggufs import random_blocks

KINDS = {"Q2_K": 98, "Q3_K": 67, "Q4_K": 100, "Q5_K": 101, "Q6_K": 70, "IQ4_XS": 84}  # by the bits that say
BLOCK, INPUTS = 256, 32  # of weights, and of what they are multiplied by
kinds = st.sampled_from(sorted(KINDS))
shapes = st.tuples(st.sampled_from([1, 16, 17, 50]), st.integers(1, 3), kinds)


def drawn(kernels, seed, shape):
    """(Weights of random blocks, their values in float64, the sum of what each is made of without
    signs)."""
    n, blocks, kind = shape
    rows = random_blocks(kind, n * blocks, seed).reshape(n, -1)
    values, numbers = integers(rows, kind)
    weights = kernels.Weights(kernels.pack_values(values, numbers, KINDS[kind], BLOCK), n, values.shape[1],
                              KINDS[kind], BLOCK)  # fmt: skip
    w = dequantize(rows, GGMLQuantizationType[kind]).astype(float)
    each = numbers.reshape(n, blocks, -1)
    minimums = np.abs(each[..., 1:2]) * 63 if kind in ("Q2_K", "Q4_K", "Q5_K") else np.zeros((n, blocks, 1))
    return weights, w, np.abs(w) + 2 * np.repeat(minimums.reshape(n, -1), BLOCK, axis=1)


@bounded
@given(shape=shapes, rows=row_counts, seed=seeds)
def test_products(kernels, path, shape, rows, seed):
    (weights, w, size), (gate, g, gate_size) = (drawn(kernels, seed + i, shape) for i in range(2))
    x = np.random.default_rng(seed).standard_normal((rows, w.shape[1]), np.float32)
    q = quantised(x, INPUTS)
    close(kernels.linear(x, weights, threads=2, path=path), q @ w.T, np.abs(q) @ size.T)
    bound = np.abs(q) @ size.T * (1 + np.abs(q) @ gate_size.T)
    close(kernels.gated(x, gate, weights, path=path), silu(q @ g.T) * (q @ w.T), bound)


@bounded
@given(kind=kinds, rows=row_counts, seed=seeds)
def test_beside_matrices_in_blocks_of_32(kernels, path, kind, rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 2 * BLOCK), np.float32)
    parts = [drawn(kernels, seed, (33, 2, each))[0] for each in (kind, "Q6_K")]
    matrices = [parts[0], matrix(kernels, rng, (17, 16, 8, INPUTS))[0], parts[1]]
    for weights, y in zip(matrices, kernels.linears(x, matrices, threads=2, path=path), strict=True):
        assert np.array_equal(y, kernels.linear(x, weights, path=path))
    with pytest.raises(ValueError, match="one block of inputs"):
        kernels.linears(x, [parts[0], matrix(kernels, rng, (17, 8, 8, 64))[0]], path=path)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_gguf_are_kept_to_the_bit(kernels, kind):
    """Random bytes, with scales and minimums of every kind that is finite."""
    blocks = random_blocks(kind, 33 * 3, scale=1e4)
    blocks[:16] = random_blocks(kind, 16, scale=1e-6)  # below what is normal in 16 bits
    rows = blocks.reshape(33, -1)
    given_before = values, numbers = integers(rows, kind)
    bits, k = KINDS[kind], 3 * BLOCK
    weights = kernels.Weights(kernels.pack_values(values, numbers, bits, BLOCK), 33, k, bits, BLOCK)
    expected = dequantize(rows, GGMLQuantizationType[kind])
    assert np.array_equal(weights.unpack().view(np.uint32), expected.view(np.uint32))
    for there, before in zip(weights.integers(), given_before, strict=True):
        assert np.array_equal(there, before)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_integers_do_not_overflow(kernels, path, kind):
    values, numbers = integers(random_blocks(kind, 2).reshape(2, -1), kind)
    small = kind == "Q2_K"
    numbers[:] = 15 if small else 127
    numbers[1] = 15 if small else -128
    numbers[:, 0] = 1
    if kind in ("Q2_K", "Q4_K", "Q5_K"):
        numbers[:, 1] = -8
        numbers[:, 2 + (len(numbers[0]) - 2) // 2 :] = 3
    values[0], values[1] = values.min(), values.max()
    weights = kernels.Weights(kernels.pack_values(values, numbers, KINDS[kind], BLOCK), 2, BLOCK, KINDS[kind], BLOCK)
    x = np.repeat(np.array([[127], [-127], [1]], np.float32), BLOCK, axis=1)
    expected = x.astype(float) @ weights.unpack().T
    np.testing.assert_allclose(kernels.linear(x, weights, path=path), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "kind, number, said", [("Q6_K", 128, "8 bits"), ("Q4_K", 0.5, "8 bits"), ("Q2_K", 16, "4 bits")]
)
def test_numbers_of_parts_are_whole_and_small(kernels, kind, number, said):
    values, numbers = integers(random_blocks(kind, 1), kind)
    numbers[0, -1] = number
    with pytest.raises(ValueError, match=f"of a part does not fit {said}"):
        kernels.pack_values(values, numbers, KINDS[kind], BLOCK)
    with pytest.raises(ValueError, match="of parts come as integers alone"):
        kernels.pack(values.astype(np.float32), KINDS[kind], BLOCK)
    with pytest.raises(ValueError, match="and block is 256"):
        kernels.packed_bytes(1, BLOCK, KINDS[kind], 128)
    with pytest.raises(ValueError, match="block is 32, 64 or 128"):
        kernels.packed_bytes(1, BLOCK, 4, 256)
