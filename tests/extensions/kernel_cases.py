"""What the kernels are tried with: shapes and seeds for hypothesis, and the same sums in numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mpsplit.package.stored.quantisation import TABLES as values_of

TABLES = (20, 19, 18)  # the bits that say: 4, 3 and 2 of them, by a table
TABLE, TABLE_OF_3, TABLE_OF_2 = TABLES
# by their bits, the integers that a weight may be
VALUES = {bits: np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.int8) for bits in (4, 6, 8)} | {
    bits: np.array(values_of[bits], np.int8) for bits in TABLES
}
BITS, BLOCKS, PATHS = tuple(VALUES), (32, 64, 128), ("plain", "avx2", "vnni", "bf16", "neon")
bounded = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.tuples(
    st.sampled_from([1, 15, 16, 17, 33, 100]),  # n
    st.integers(1, 5),  # blocks along k
    st.sampled_from(BITS),
    st.sampled_from(BLOCKS),
)
row_counts = st.one_of(st.integers(1, 20), st.sampled_from([31, 64, 127, 128, 129]))
seeds = st.integers(0, 2**32 - 1)


def matrix(kernels, rng, shape):
    """(Weights, its values in float64) of random integers and scales."""
    n, blocks, bits, block = shape
    values = rng.choice(VALUES[bits], (n, blocks * block))
    scales = rng.uniform(0.001, 0.1, (n, blocks)).astype(np.float16).astype(np.float32)
    packed = kernels.pack_values(values, scales, bits, block)
    return kernels.Weights(packed, n, blocks * block, bits, block), values * np.repeat(
        scales.astype(float), block, axis=1
    )


def quantised(x, block):
    """x as a kernel sees it: int8 times a scale for each block, in float32 as there and then in
    float64."""
    parts = x.reshape(len(x), -1, block)
    peak = np.abs(parts).max(-1, keepdims=True)
    scale = peak / np.float32(127)
    inverse = np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak > 0)
    return (np.rint(parts * inverse).astype(float) * scale).reshape(x.shape)


def close(y, expected, bound):
    """Within float32 summation error of the sum of absolute products."""
    assert y.shape == expected.shape and y.dtype == np.float32
    np.testing.assert_array_less(np.abs(y - expected), 2e-6 * bound + 1e-6)


def silu(x):
    return x / (1 + np.exp(-np.clip(x, -700, 700)))
