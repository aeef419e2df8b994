"""GPTQ and AWQ on random and on correlated inputs: the output error falls, and nothing else
changes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsplit.export.weights.awq import (
    Layer,
    Scaling,
    best_scales,
    column_scales,
    folds_of,
    losses,
    of_heads,
    output_error,
    rounded,
    scalings,
    to_heads,
)
from mpsplit.export.weights.encode import Encoder, Verdict, dequantised, output_errors
from mpsplit.export.weights.gptq import factor, gptq
from mpsplit.export.weights.input_statistics import Statistics
from mpsplit.families.llama import LLAMA
from mpsplit.native import cpp
from mpsplit.package.stored.quantisation import KINDS, TABLE, Quantisation
from tests.missing import needs

pytestmark = needs("the kernels")
Q4 = Quantisation(4, 32)
N, K, TOKENS = 80, 256, 600


def inputs(kind: str, rng) -> np.ndarray:
    """[tokens, k]: white, or some 40 directions mixed into all columns, or a few columns that are
    far larger than the others"""
    x = rng.standard_normal((TOKENS, K))
    if kind == "correlated":
        x = 0.2 * x + rng.standard_normal((TOKENS, 40)) @ rng.standard_normal((40, K)) / 6
    if kind == "outliers":
        x *= np.exp(rng.standard_normal(K) * 1.5)
    return x.astype(np.float32)


@pytest.fixture(params=["white", "correlated", "outliers"])
def case(request):
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((N, K)).astype(np.float32), inputs(request.param, rng)
    return request.param, w, Statistics.of(x), x


def back(values, scales):
    return (values.reshape(*scales.shape, -1) * scales[..., None]).reshape(values.shape)


def test_the_factor_is_of_the_damped_inverse():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 64)).astype(np.float32)
    x[:, 7] = 0
    h = Statistics.of(x).hessian
    u = factor(h)
    damped = h + np.eye(64) * h.diagonal().mean() * 0.01
    damped[7, 7] = h.diagonal().mean()
    assert np.array_equal(u, np.triu(u))
    np.testing.assert_allclose(u.T.astype(float) @ u, np.linalg.inv(damped), atol=1e-4)


def test_fewer_tokens_than_inputs_still_have_a_factor():
    u = factor(Statistics.of(np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)).hessian)
    assert np.isfinite(u).all()


@pytest.mark.parametrize("bits", [KINDS["q2"], KINDS["q3"], TABLE, 4, 6, 8])
@pytest.mark.parametrize("scales", ["minmax", "mse"])
def test_gptq_lowers_the_output_error(case, bits, scales):
    kind, w, of, _ = case
    how = Quantisation(bits, 32)
    plain = output_error(w - rounded(w, how, scales), of.hessian)
    error = output_error(w - back(*gptq(w, factor(of.hessian), how, scales)), of.hessian)
    assert error < plain * (0.6 if kind == "correlated" else 1), (error, plain)


def test_gptq_of_pieces_is_gptq_of_the_whole(case):
    _, w, of, _ = case
    u = factor(of.hessian)
    whole = Encoder(Q4, "mse", u=u)(w)
    pieces = [Encoder(Q4, "mse", u=u)(w[i : i + 16]) for i in range(0, N, 16)]
    assert np.array_equal(np.concatenate(pieces), whole)
    again = cpp.kernels().Weights(whole, N, K, 4, 32).unpack()
    assert output_error(w - again, of.hessian) < output_error(w - rounded(w, Q4, "mse"), of.hessian)


def nearest(x, how):
    if not how.by_table:
        return np.clip(np.rint(x), how.lowest, -how.lowest - 1)
    values = np.array(how.table)
    return values[np.abs(x[..., None] - values).argmin(-1)]


def plainly(w, u, scale_of, how=Q4):
    """GPTQ of 4 bits in blocks of 32 as it is written in books; scale_of(block number, columns)."""
    w, q = w.astype(np.float64), np.zeros(w.shape)
    for j in range(w.shape[1]):
        if j % 32 == 0:
            scale = scale_of(j // 32, w[:, j : j + 32].astype(np.float32))
        q[:, j] = nearest(w[:, j] / scale, how) * scale
        w[:, j + 1 :] -= np.outer((w[:, j] - q[:, j]) / u[j, j], u[j, j + 1 :])
    return q


@pytest.mark.parametrize("bits", [KINDS["q2"], KINDS["q3"], 4, TABLE])
def test_gptq_is_what_books_say_with_its_scales(case, bits):
    _, w, of, _ = case
    u, how = factor(of.hessian), Quantisation(bits, 32)
    values, scales = gptq(w, u, how)
    expected = plainly(w, u, lambda block, columns: scales[:, block], how)
    # where two integers are as near as each other, the last bit of a sum decides
    assert np.mean(np.abs(back(values, scales) - expected) > 1e-4) < 0.01


def test_a_scale_suits_the_columns_that_matter():
    """Columns that are read loudly decide the scale of their block: without that, calibration made
    real models worse."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((N, K)).astype(np.float32), inputs("outliers", rng)
    of = Statistics.of(x)
    u = factor(of.hessian)
    all_alike = plainly(w, u, lambda block, columns: cpp.kernels().integers(columns, 4, 32, "mse")[1][:, 0])
    error = output_error(w - back(*gptq(w, u, Q4)), of.hessian)
    assert error < 0.8 * output_error((w - all_alike).astype(np.float32), of.hessian)


@settings(max_examples=30, deadline=None)
@given(
    n=st.sampled_from([1, 5, 16, 33]),
    blocks=st.integers(1, 4),
    bits=st.sampled_from([KINDS["q2"], KINDS["q3"], TABLE, 4, 6, 8]),
    block=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 2**32 - 1),
)
def test_gptq_of_any_shape_can_be_packed(n, blocks, bits, block, seed):
    rng, how = np.random.default_rng(seed), Quantisation(bits, block)
    w = (rng.standard_normal((n, blocks * block)) * rng.choice([0, 1e-3, 10], (n, 1))).astype(np.float32)
    x = rng.standard_normal((rng.integers(1, 300), blocks * block)).astype(np.float32)
    x[:, rng.random(blocks * block) < 0.1] = 0
    u = factor(Statistics.of(x).hessian)
    values, scales = gptq(w, u, how)
    packed = Encoder(how, "mse", u=u)(w)
    assert np.isfinite(scales).all()
    assert np.array_equal(cpp.kernels().Weights(packed, n, blocks * block, bits, block).unpack(), back(values, scales))


def test_an_encoder_of_pieces():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((40, 64)).astype(np.float32), rng.standard_normal((99, 64)).astype(np.float32)
    scaling = Scaling(
        over=np.exp(rng.standard_normal(40)).astype(np.float32),
        times=np.exp(rng.standard_normal(64)).astype(np.float32),
    )
    for encoder in (Encoder(Q4), Encoder(Q4, "mse", scaling), Encoder(Quantisation(16, 32), scaling=scaling)):
        pieces = [encoder(w[i : i + 16], i) for i in range(0, 40, 16)]
        assert np.array_equal(np.concatenate(pieces), encoder(w))
    u = factor(scaling.statistics(Statistics.of(x)).hessian)
    assert len(Encoder(Q4, "mse", scaling, u)(w)) == cpp.kernels().packed_bytes(40, 64, 4, 32)


def test_each_row_is_rounded_as_held_back_text_wants():
    """What was held back is of another kind than what was seen: GPTQ is worse for some rows."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((N, K)).astype(np.float32)
    seen, unseen = (Statistics.of(inputs("correlated", rng)).hessian for _ in range(2))
    verdict = Verdict()
    encoder = Encoder(Q4, "mse", None, factor(seen), unseen, verdict)
    errors = {}
    for name, values in {
        "judged": encoder.integers(w),
        "calibrated": gptq(w, factor(seen), Q4),
        "plain": cpp.kernels().integers(w, 4, 32, "mse"),
    }.items():
        errors[name] = output_errors(w - dequantised(values), unseen)
    np.testing.assert_allclose(errors["judged"], np.minimum(errors["calibrated"], errors["plain"]))
    assert 0 < verdict.better < verdict.rows == N
    pieces = [encoder(w[i : i + 16], i) for i in range(0, N, 16)]
    assert np.array_equal(np.concatenate(pieces), encoder(w))


def test_gptq_with_white_inputs_of_equal_size_is_rounding():
    w = np.random.default_rng(0).standard_normal((N, K)).astype(np.float32)
    values, scales = gptq(w, factor(np.eye(K, dtype=np.float32)), Q4, "mse")
    assert np.mean(back(values, scales) != rounded(w, Q4, "mse")) < 1e-3


def test_awq_lowers_the_output_error_where_columns_differ(case):
    kind, w, of, _ = case
    found = losses(w, Q4, of)
    s = best_scales(of.mean, found)
    assert found.min() <= found[0] and np.isclose(found[0], output_error(w - rounded(w, Q4, "mse"), of.hessian))
    error = output_error(rounded(w * s, Q4, "mse") / s - w, of.hessian)
    assert np.isclose(error, found.min())
    if kind == "outliers":
        assert error < 0.7 * found[0], error / found[0]


def test_losses_add_up_over_rows(case):
    _, w, of, _ = case
    np.testing.assert_allclose(losses(w[:30], Q4, of) + losses(w[30:], Q4, of), losses(w, Q4, of), rtol=1e-5)


def test_gptq_after_awq(case):
    kind, w, of, x = case
    s = best_scales(of.mean, losses(w, Q4, of))
    after = of.scaled(s)
    np.testing.assert_allclose(after.hessian, Statistics.of(x / s).hessian, rtol=1e-2, atol=1e-4)
    q = back(*gptq(w * s, factor(after.hessian), Q4, "mse")) / s
    assert output_error(w - q, of.hessian) < output_error(w - rounded(w, Q4, "mse"), of.hessian)


def test_scales_are_around_one_and_bear_zeros():
    mean = np.array([0, 1e-9, 1, 100], np.float32)
    for alpha in (0, 0.5, 1):
        s = column_scales(mean, alpha)
        assert np.isfinite(s).all() and (s > 0).all() and np.isclose(s.max() * s.min(), 1)
    assert (column_scales(mean, 0) == 1).all() and (column_scales(np.zeros(4, np.float32), 0.5) == 1).all()


def test_heads_that_share_values():
    mean = np.arange(4 * 2, dtype=np.float32)  # 4 heads of 2
    assert of_heads(mean, 4, 2).tolist() == [1, 2, 5, 6]
    assert to_heads(np.array([1, 2, 5, 6]), 4, 2).tolist() == [1, 2, 1, 2, 5, 6, 5, 6]


HIDDEN, DIM, HEADS, KV_HEADS, MLP = 64, 16, 8, 4, 96


def decoder_layer(rng) -> Layer:
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    arrays = {f"{norm}.weight": 1 + draw(HIDDEN) / 4 for norm in ("input_layernorm", "post_attention_layernorm")}
    shapes = {"q": (HEADS * DIM, HIDDEN), "k": (KV_HEADS * DIM, HIDDEN), "v": (KV_HEADS * DIM, HIDDEN)}
    arrays |= {f"self_attn.{name}_proj.weight": draw(*shape) for name, shape in shapes.items()}
    arrays |= {"self_attn.v_proj.bias": draw(KV_HEADS * DIM), "self_attn.o_proj.weight": draw(HIDDEN, HEADS * DIM)}
    arrays |= {f"mlp.{name}_proj.weight": draw(MLP, HIDDEN) for name in ("gate", "up")}
    arrays |= {"mlp.up_proj.bias": draw(MLP), "mlp.down_proj.weight": draw(HIDDEN, MLP)}
    of = {
        name: Statistics.of(draw(50, a.shape[1]) * np.exp(draw(a.shape[1])))
        for name, a in arrays.items()
        if a.ndim == 2
    }
    shared = {name: of["self_attn.q_proj.weight"] for name in of if name[10:11] in "qkv"}
    return Layer(arrays, of | shared | {"mlp.gate_proj.weight": of["mlp.up_proj.weight"]}, HEADS, KV_HEADS)


def values_and_mlp(layer: Layer, x: np.ndarray) -> list[np.ndarray]:
    """What depends on the folded products: q, k, o (v for each of its heads), and down
    (gate * up)."""
    a = {name: array.astype(float) for name, array in layer.rows.items()}
    n, m = (x * a[f"{norm}.weight"] for norm in ("input_layernorm", "post_attention_layernorm"))
    v = n @ a["self_attn.v_proj.weight"].T + a["self_attn.v_proj.bias"]
    heads = np.repeat(v.reshape(len(x), KV_HEADS, 1, DIM), HEADS // KV_HEADS, axis=2).reshape(len(x), -1)
    up = m @ a["mlp.up_proj.weight"].T + a["mlp.up_proj.bias"]
    gate = np.tanh(m @ a["mlp.gate_proj.weight"].T)
    return [
        n @ a["self_attn.q_proj.weight"].T,
        n @ a["self_attn.k_proj.weight"].T,
        heads @ a["self_attn.o_proj.weight"].T,
        (gate * up) @ a["mlp.down_proj.weight"].T,
    ]


def folded(layer: Layer, found: dict[str, Scaling]) -> Layer:
    return replace(layer, rows={name: found.get(name, Scaling())(array) for name, array in layer.rows.items()})


def test_folding_does_not_change_the_layer():
    rng = np.random.default_rng(0)
    layer, x = decoder_layer(rng), rng.standard_normal((20, HIDDEN))
    found = scalings(layer, folds_of(LLAMA), lambda name: Q4, "mse")
    after = folded(layer, found)
    assert all(not np.array_equal(array, after.rows[name]) for name, array in layer.rows.items()), "all take part"
    for before, now in zip(values_and_mlp(layer, x), values_and_mlp(after, x), strict=True):
        np.testing.assert_allclose(now, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())
    name = "mlp.up_proj.weight"
    pieces = [found[name](layer.rows[name][i : i + 16], i) for i in range(0, MLP, 16)]
    assert np.array_equal(np.concatenate(pieces), after.rows[name])
    down = "mlp.down_proj.weight"
    assert np.allclose(found[down].statistics(layer.of[down]).mean, layer.of[down].mean / found[down].times)


def test_what_is_not_rounded_is_not_folded():
    assert not scalings(
        decoder_layer(np.random.default_rng(0)), folds_of(LLAMA), lambda name: Quantisation(16, 32), "mse"
    )


def test_ranks_choose_the_same_scales_for_a_norm():
    """A rank without MLP takes part in both sums, and divides its norm as the others do."""
    whole, asked = decoder_layer(np.random.default_rng(0)), []
    expected = scalings(whole, folds_of(LLAMA), lambda name: Q4, "mse", lambda own: asked.append(own) or own)
    replay = iter(asked)
    attention = replace(whole, rows={name: a for name, a in whole.rows.items() if "self_attn" in name})
    found = scalings(attention, folds_of(LLAMA), lambda name: Q4, "mse", lambda own: next(replay))
    assert next(replay, None) is None, "both norms were asked for"
    assert found and all(np.array_equal(found[name].over, expected[name].over) for name in found if "norm" in name)
    assert not any("mlp" in name for name in found)
