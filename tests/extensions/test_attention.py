"""Attention over a cache against numpy in float64: grouped heads, windows, prompts in pieces, threads."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def turned(x, cos, sin):
    """x [rows, heads, dim], turned by the angles [rows, dim / 2]."""
    a, b = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def expected(q, k, v, cos, sin, scale, window):
    """float64 [rows, heads * dim] of all rows at once; q is [rows, heads, dim], k and v have fewer heads."""
    q, k, v, cos, sin = (x.astype(float) for x in (q, k, v, cos, sin))
    group = q.shape[1] // k.shape[1]
    q, k, v = turned(q, cos, sin), np.repeat(turned(k, cos, sin), group, 1), np.repeat(v, group, 1)
    scores = scale * np.einsum("qhd,khd->hqk", q, k)
    query, key = np.arange(len(q))[:, None], np.arange(len(k))[None, :]
    hidden = (key > query) | ((key <= query - window) if window else False)
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v).reshape(len(q), -1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from([1, 1, 2, 5, 16, 17, 40, 129]), min_size=1, max_size=6),
    heads=st.sampled_from([(1, 1), (1, 4), (2, 3), (4, 8), (3, 1)]),
    dim=st.sampled_from([2, 8, 24, 64, 128]),
    window=st.sampled_from([0, 0, 1, 11, 16, 50]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_is_numpys(kernels, pieces, heads, dim, window, threads, seed):
    kv_heads, group = heads
    rng, rows = np.random.default_rng(seed), sum(pieces)
    q, k, v = (rng.normal(0, 2, (rows, n, dim)).astype(np.float32) for n in (kv_heads * group, kv_heads, kv_heads))
    angles = rng.uniform(0, 7, (rows, dim // 2)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    cache = kernels.KeyValueCache(kv_heads, dim, rows)
    flat, at, y = (lambda x: x.reshape(len(x), -1)), 0, []
    for count in pieces:
        part = slice(at, at + count)
        y.append(kernels.attend(cache, flat(q[part]), flat(k[part]), flat(v[part]), at, 0.3, window, cos, sin, threads))
        at += count
    wanted = expected(q, k, v, cos, sin, 0.3, window)
    np.testing.assert_allclose(np.concatenate(y), wanted, rtol=0, atol=2e-5 * np.abs(v).max())


def test_what_was_said_before_position_0_is_forgotten(kernels):
    rng = np.random.default_rng(0)
    cos, sin = np.ones((20, 4), np.float32), np.zeros((20, 4), np.float32)
    cache = kernels.KeyValueCache(1, 8, 20)
    first, second = (rng.normal(size=(3, 20, 8)).astype(np.float32) for _ in range(2))
    kernels.attend(cache, *first, 0, 1.0, 0, cos, sin)
    y = kernels.attend(cache, *(x[:7] for x in second), 0, 1.0, 0, cos, sin)
    fresh = kernels.attend(kernels.KeyValueCache(1, 8, 20), *(x[:7] for x in second), 0, 1.0, 0, cos, sin)
    assert np.array_equal(y, fresh)
