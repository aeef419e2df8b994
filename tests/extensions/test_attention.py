"""Attention over a cache against numpy in float64: grouped heads, windows, prompts in pieces,
threads."""

from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def turned(x, cos, sin):
    """x [rows, heads, dim], turned by the angles [rows, dim / 2]."""
    a, b = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def expected(q, k, v, cos, sin, scale, window):
    """float64 [rows, heads * dim] of all rows at once; q is [rows, heads, dim], k and v have fewer
    heads."""
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


class Speaker:
    """A run: its rows, its pages, how far it is."""

    def __init__(self, rng, rows, kv_heads, group, dim, pages):
        self.q, self.k, self.v = (
            rng.normal(0, 2, (rows, n, dim)).astype(np.float32) for n in (kv_heads * group, kv_heads, kv_heads)
        )
        self.pages, self.at, self.said = pages, 0, []

    def left(self):
        return len(self.q) - self.at


def say(kernels, cache, speakers, counts, cos, sin, window, threads):
    """A step in which each speaker says so much; speakers who say nothing are not there."""
    there = [(s, n) for s, n in zip(speakers, counts, strict=True) if n]
    rows = [np.concatenate([getattr(s, x)[s.at : s.at + n].reshape(n, -1) for s, n in there]) for x in "qkv"]
    longest = max(len(s.pages) for s, _ in there)
    tables = np.array([[*s.pages, *[s.pages[-1]] * (longest - len(s.pages))] for s, _ in there], np.int32)
    runs = np.array([(n, s.at) for s, n in there], np.int32)
    y = kernels.attend(cache, *rows, runs, tables, 0.3, window, cos, sin, threads)
    for s, n in there:
        s.said.append(y[:n])
        y, s.at = y[n:], s.at + n


KINDS = {
    "f32": (0, 2e-5),
    "bf16": (1, 0.05),
    "q8": (2, 0.05),
}  # how they are told to the cache, and how far off it may be


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.lists(st.sampled_from([1, 1, 2, 5, 16, 17, 40, 129]), min_size=1, max_size=5), min_size=1, max_size=4
    ),
    heads=st.sampled_from([(1, 1), (1, 4), (2, 3), (4, 8), (3, 1)]),
    dim=st.sampled_from([2, 8, 24, 64, 128]),
    window=st.sampled_from([0, 0, 1, 11, 16, 50]),
    threads=st.sampled_from([1, 2, 3]),
    kind=st.sampled_from(["f32", "f32", "bf16", "q8"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_is_numpys_whoever_else_is_there(kernels, pieces, heads, dim, window, threads, kind, seed):
    kv_heads, group = heads
    rng = np.random.default_rng(seed)
    needed = [-(-sum(own) // 32) for own in pieces]
    pages = rng.permutation(sum(needed) + 3)
    tables = np.split(pages, np.cumsum(needed))[:-1]
    together = [Speaker(rng, sum(own), *heads, dim, table) for own, table in zip(pieces, tables, strict=True)]
    stored, off = KINDS[kind]
    angles = rng.uniform(0, 7, (max(map(sum, pieces)), dim // 2)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    cache = kernels.KeyValueCache(kv_heads, dim, len(pages), stored)
    for counts in zip_longest(*pieces, fillvalue=0):
        say(kernels, cache, together, counts, cos, sin, window, threads)
    for one, own in zip(together, pieces, strict=True):
        y = np.concatenate(one.said)
        wanted = expected(one.q, one.k, one.v, cos[: one.at], sin[: one.at], 0.3, window)
        error = np.abs(y - wanted)
        assert error.max() <= 2e-5 * np.abs(one.v).max() if kind == "f32" else error.mean() <= off
        one.at, one.said = 0, []
        alone = kernels.KeyValueCache(kv_heads, dim, len(pages), stored)
        for count in own:
            say(kernels, alone, [one], [count], cos, sin, window, 1)
        assert np.array_equal(y, np.concatenate(one.said))  # to the last bit


def test_what_was_said_before_position_0_is_forgotten(kernels):
    rng = np.random.default_rng(0)
    cos, sin = np.ones((20, 4), np.float32), np.zeros((20, 4), np.float32)
    first, second, fresh = (Speaker(rng, 20, 1, 1, 8, [0]) for _ in range(3))
    fresh.q, fresh.k, fresh.v = second.q, second.k, second.v
    cache = kernels.KeyValueCache(1, 8, 1)
    say(kernels, cache, [first], [20], cos, sin, 0, 1)
    say(kernels, cache, [second], [7], cos, sin, 0, 1)
    say(kernels, kernels.KeyValueCache(1, 8, 1), [fresh], [7], cos, sin, 0, 1)
    assert np.array_equal(second.said, fresh.said)


@pytest.mark.parametrize(
    "runs, tables", [([[2, 31]], [[0]]), ([[0, 0]], [[0]]), ([[2, 0]], [[4]]), ([[1, 0]], [[0]]), ([[2, -1]], [[0]])]
)
def test_rows_that_do_not_fit_are_refused(kernels, runs, tables):
    x = np.zeros((2, 8), np.float32)
    angles = np.zeros((40, 4), np.float32)
    with pytest.raises(ValueError):
        kernels.attend(
            kernels.KeyValueCache(1, 8, 4), x, x, x, np.int32(runs), np.int32(tables), 1.0, 0, angles, angles
        )
