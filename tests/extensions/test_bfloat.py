"""Weights in bfloat16 against numpy in float64, on every instruction path that runs here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.extensions.kernel_cases import bounded, close, row_counts, seeds, silu

sizes = st.tuples(st.sampled_from([1, 15, 16, 17, 33, 100]), st.one_of(st.integers(1, 70), st.integers(1, 400)))


def bfloat(x: np.ndarray) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, for finite x."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


def matrix(kernels, rng, n, k):
    """(Weights, its values in float64)"""
    w = rng.standard_normal((n, k), np.float32)
    return kernels.Weights(kernels.pack(w, 16, 32), n, k, 16, 32), bfloat(w).astype(float)


@bounded
@given(size=sizes, rows=row_counts, seed=seeds)
def test_linear_is_the_product(kernels, path, size, rows, seed):
    rng = np.random.default_rng(seed)
    (weights, w), (gate, g) = matrix(kernels, rng, *size), matrix(kernels, rng, *size)
    x = rng.standard_normal((rows, size[1]), np.float32)
    bias, residual = rng.standard_normal(len(w), np.float32), rng.standard_normal((rows, len(w)), np.float32)
    b = bfloat(x).astype(float)
    product, bound = b @ w.T, np.abs(b) @ np.abs(w.T)
    y = kernels.linear(x, weights, path=path)
    close(y, product, bound)
    close(kernels.linear(x, weights, bias, residual, path=path), product + bias + residual, bound + 10)
    assert np.array_equal(y, kernels.linear(x, weights, threads=2, path=path))
    assert np.array_equal(y[-1:], kernels.linear(x[-1:], weights, path=path)), "a row does not depend on the others"
    gate_bound = np.abs(b) @ np.abs(g.T) + 1
    opened = silu(b @ g.T)
    close(
        kernels.gated(x, gate, weights, threads=2, path=path),
        opened * product,
        (bound + 10) * (np.abs(opened) + gate_bound),
    )


@bounded
@given(size=sizes, magnitude=st.sampled_from([1e-38, 1e-4, 1.0, 1e30]), seed=seeds)
def test_packing_rounds_to_the_nearest(kernels, size, magnitude, seed):
    w = np.random.default_rng(seed).standard_normal(size).astype(np.float32) * np.float32(magnitude)
    packed = kernels.pack(w, 16, 32)
    assert packed.size == kernels.packed_bytes(*size, 16, 32) == -(-size[0] // 16) * -(-size[1] // 32) * 1024
    assert np.array_equal(packed, kernels.pack(w, 16, 32, threads=2))
    assert np.array_equal(kernels.Weights(packed, *size, 16, 32).unpack(), bfloat(w))
    twice = kernels.pack(np.concatenate([np.resize(w, (16, size[1])), w]), 16, 32)
    assert np.array_equal(twice[-packed.size :], packed), "pieces of 16 rows follow each other"


def test_what_is_not_finite_stays_so(kernels, path):
    w = np.ones((20, 40), np.float32)
    w[3, 5], w[4, 39] = np.nan, -np.inf
    y = kernels.linear(
        np.ones((3, 40), np.float32), kernels.Weights(kernels.pack(w, 16, 32), 20, 40, 16, 32), path=path
    )
    assert np.isnan(y[:, 3]).all() and (y[:, 4] == -np.inf).all() and (np.delete(y, [3, 4], 1) == 40).all()


def test_what_cannot_be_is_refused(kernels):
    x = np.ones((3, 64), np.float32)
    floats = kernels.Weights(kernels.pack(np.ones((17, 64), np.float32), 16, 32), 17, 64, 16, 32)
    integers = kernels.Weights(kernels.pack(np.ones((17, 64), np.float32), 4, 32), 17, 64, 4, 32)
    for wrong in (lambda: kernels.linears(x, [floats, integers]), lambda: kernels.gated(x, integers, floats)):
        with pytest.raises(ValueError, match="all in integers or all in bfloat16"):
            wrong()
    with pytest.raises(ValueError, match="block of 32"):
        kernels.packed_bytes(16, 64, 16, 64)
    with pytest.raises(ValueError, match="bfloat16 has neither integers nor scales"):
        kernels.pack_values(np.ones((1, 32), np.int8), np.ones((1, 1), np.float32), 16, 32)
    with pytest.raises(ValueError, match="bfloat16 has neither integers nor scales"):
        floats.integers()
