"""Scales of blocks: minmax and the search for the least squared error, and integers as they are
packed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.extensions.kernel_cases import BITS, TABLE, TABLE_OF_2, TABLE_OF_3, TABLES, VALUES, bounded, seeds, shapes

draws = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "heavy": lambda rng, size: rng.standard_t(3, size),
    "even": lambda rng, size: rng.uniform(-1, 1, size),
    "one-sided": lambda rng, size: rng.exponential(1, size),
}


def rows_of(shape, seed, draw="normal", magnitude=1.0):
    n, blocks, _, block = shape
    return (draws[draw](np.random.default_rng(seed), (n, blocks * block)) * magnitude).astype(np.float32)


def back(values, scales):
    return (values.reshape(*scales.shape, -1) * scales[..., None]).reshape(values.shape)


def block_errors(rows, again, scales):
    return np.square((rows - again).astype(float)).reshape(*scales.shape, -1).sum(-1)


@bounded
@given(shape=shapes, draw=st.sampled_from(list(draws)), magnitude=st.sampled_from([1e-6, 0.02, 1, 1e6]), seed=seeds)
def test_searched_scales_are_never_worse(kernels, shape, draw, magnitude, seed):
    _, _, bits, block = shape
    rows = rows_of(shape, seed, draw, magnitude)
    errors = {}
    for method in ("minmax", "mse"):
        values, scales = kernels.integers(rows, bits, block, method)
        assert np.isin(values, VALUES[bits]).all()
        errors[method] = block_errors(rows, back(values, scales), scales)
    assert (errors["mse"] <= errors["minmax"] * 1.0001 + 1e-30).all()


@bounded
@given(shape=shapes, method=st.sampled_from(["minmax", "mse"]), seed=seeds)
def test_integers_are_those_that_are_packed(kernels, shape, method, seed):
    n, blocks, bits, block = shape
    rows = rows_of(shape, seed)
    values, scales = kernels.integers(rows, bits, block, method, threads=2)
    packed = kernels.pack(rows, bits, block, scales=method)
    assert np.array_equal(packed, kernels.pack_values(values, scales, bits, block))
    assert np.array_equal(packed, kernels.pack(rows, bits, block, threads=2, scales=method))
    weights = kernels.Weights(packed, n, blocks * block, bits, block)
    assert np.array_equal(weights.unpack(), back(values, scales))
    for found, packed_from in zip(weights.integers(), (values, scales), strict=True):
        assert np.array_equal(found, packed_from)


@bounded
@given(shape=shapes, method=st.sampled_from(["minmax", "mse"]), pieces=st.integers(1, 4), seed=seeds)
def test_pieces_of_sixteen_rows_are_the_whole(kernels, shape, method, pieces, seed):
    _, _, bits, block = shape
    rows = np.resize(rows_of(shape, seed), (16 * pieces + 5, shape[1] * block))
    parts = [kernels.pack(rows[i : i + 16], bits, block, scales=method) for i in range(0, len(rows), 16)]
    assert np.array_equal(np.concatenate(parts), kernels.pack(rows, bits, block, scales=method))


@pytest.mark.parametrize(
    "bits, gain", [(4, 0.85), (6, 0.95), (8, 1), (TABLE, 0.85), (TABLE_OF_3, 0.87), (TABLE_OF_2, 0.75)]
)
def test_the_search_gains_where_bits_are_few(kernels, bits, gain):
    rows = rows_of((64, 16, bits, 32), 0)
    minmax, mse = (
        block_errors(rows, back(*found), found[1]).sum()
        for found in (kernels.integers(rows, bits, 32, method) for method in ("minmax", "mse"))
    )
    assert mse < gain * minmax, mse / minmax


@pytest.mark.parametrize("bits", BITS)
def test_a_grid_is_found_again(kernels, bits):
    """Weights that are integers times a scale lose nothing, with the odd lowest integer too."""
    places = np.linspace(0, len(VALUES[bits]) - 1, 32).round().astype(int)
    values = VALUES[bits][None, places].astype(np.float32)
    for sign in (1, -1):
        found, scales = kernels.integers(values * np.float32(0.125 * sign), bits, 32, "mse")
        assert np.array_equal(back(found, scales), values * np.float32(0.125 * sign))


@pytest.mark.parametrize("bits", TABLES)
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_table_gives_the_nearest_value(kernels, bits, method):
    rows = rows_of((64, 4, bits, 32), 0)
    values, scales = kernels.integers(rows, bits, 32, method)
    ratios = rows.reshape(64, 4, 32, 1) / scales[..., None, None]
    lost = np.abs(ratios - VALUES[bits]).min(-1)
    assert np.array_equal(lost, np.abs(ratios[..., 0] - values.reshape(64, 4, 32)))


def test_fewer_errors_by_table_than_by_four_bits(kernels):
    """What it is for: weights near zero are many."""
    rows = rows_of((64, 16, 4, 32), 0)
    table, even = (
        block_errors(rows, back(*found), found[1]).sum()
        for found in (kernels.integers(rows, bits, 32, "mse") for bits in (TABLE, 4))
    )
    assert table < 0.95 * even, table / even


@pytest.mark.parametrize("bits, at_most", [(TABLE_OF_3, 0.024), (TABLE_OF_2, 0.099)])
def test_few_bits_lose_what_their_tables_were_found_with(kernels, bits, at_most):
    """Integers of as many bits lose 0.028 and 0.114, each with the scale that suits it best."""
    rows = rows_of((64, 64, bits, 32), 0)
    values, scales = kernels.integers(rows, bits, 32, "mse")
    lost = block_errors(rows, back(values, scales), scales).sum() / np.square(rows.astype(float)).sum()
    assert lost < at_most, lost


def test_nothing_and_what_is_not_finite(kernels):
    rows = np.zeros((4, 32), np.float32)
    rows[1], rows[2, 3], rows[3] = 1e30, np.inf, 1e-12
    values, scales = kernels.integers(rows, 4, 32, "mse")
    assert np.isfinite(scales).all() and not values[0].any() and not values[3].any()
    with pytest.raises(ValueError, match="scales are minmax or mse"):
        kernels.pack(rows, 4, 32, scales="best")
    with pytest.raises(ValueError, match="bfloat16 has neither integers nor scales"):
        kernels.integers(rows, 16, 32)
    with pytest.raises(ValueError, match="block"):
        kernels.integers(rows, 4, 0)
