"""AWQ: input columns that carry large activations are scaled up before rounding, and what makes the input is scaled down. In: weights that
share an input, statistics of it. Out: a scale for each column.

With s = (mean |x|)^alpha, Q(W s) (x / s) loses less than Q(W) x for the alpha that a search finds (Lin et al., arXiv 2306.00978). Dividing
x costs nothing where it folds into what was there before: FOLDS. Invariant: folding alone changes the model by no more than float
rounding, and ranks that add up their losses choose the same scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpsplit.export.statistics import Statistics
from mpsplit.native import kernels
from mpsplit.package.quantisation import BFLOAT, Quantisation

ALPHAS = tuple(i / 20 for i in range(20))  # 0 is no scaling
SAMPLE = 256  # rows of a weight, at least, that losses are found on: enough to tell one alpha from another
SMALLEST = 1e-4  # of the mean: inputs that are nearly always 0 get no scale out of all proportion


@dataclass(frozen=True)
class Fold:
    """The inputs of `readers` are divided by dividing the rows (of a norm, its numbers) of `source`, in the same layer."""

    source: str
    readers: tuple[str, ...]


# in this order: the later ones see weights that the earlier ones have scaled
FOLDS = (
    Fold("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Fold("self_attn.v_proj", ("self_attn.o_proj",)),
    Fold("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    Fold("mlp.up_proj", ("mlp.down_proj",)),
)
HEAD = Fold("model.norm", ("lm_head",))  # outside of the layers, on the last stage


def column_scales(mean: np.ndarray, alpha: float) -> np.ndarray:
    """float32 [k], around 1: the largest times the smallest is 1"""
    s = np.maximum(mean.astype(np.float64), max(float(mean.mean(dtype=np.float64)) * SMALLEST, 1e-30)) ** alpha
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32)


def output_error(difference: np.ndarray, hessian: np.ndarray) -> float:
    """Mean over the inputs of |D x|^2, D [n, k]"""
    return float(np.einsum("ij,ij->", difference @ hessian, difference, dtype=np.float64))


def losses(
    rows: np.ndarray, how: Quantisation, of: Statistics, scales: str = "mse", alphas: Sequence[float] = ALPHAS
) -> np.ndarray:
    """float64 [alphas]: the output error of rows [n, k] for each; a sample of a weight's rows will do."""
    found = []
    for alpha in alphas:
        s = column_scales(of.mean, alpha)
        found.append(output_error(rounded(rows * s, how, scales) / s - rows, of.hessian))
    return np.array(found)


def rounded(rows: np.ndarray, how: Quantisation, scales: str) -> np.ndarray:
    """What rows become when they are stored."""
    values, steps = kernels().integers(np.ascontiguousarray(rows), how.bits, how.block, scales)
    return (values.reshape(*steps.shape, -1) * steps[..., None]).reshape(rows.shape)


def best_scales(mean: np.ndarray, total_losses: np.ndarray, alphas: Sequence[float] = ALPHAS) -> np.ndarray:
    """The column scales with the least loss, where `total_losses` are summed over all readers of the input and all ranks."""
    return column_scales(mean, alphas[int(np.argmin(total_losses))])


def of_heads(mean: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Means of o_proj's inputs [heads * dim] as v_proj's rows [kv_heads * dim] can follow them: over the heads that share one."""
    return mean.reshape(kv_heads, heads // kv_heads, -1).mean(axis=1).reshape(-1)


def to_heads(s: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Scales of v_proj's rows as scales of o_proj's columns."""
    return np.repeat(s.reshape(kv_heads, 1, -1), heads // kv_heads, axis=1).reshape(-1)


@dataclass(frozen=True)
class Layer:
    """What one rank has of a decoder layer: arrays and Statistics by name within it ("mlp.up_proj.weight"), heads as cut for the rank."""

    arrays: Mapping[str, np.ndarray]
    of: Mapping[str, Statistics]
    heads: int
    kv_heads: int


def fold_layer(
    layer: Layer,
    how: Callable[[str], Quantisation],
    scales: str,
    total: Callable[[np.ndarray], np.ndarray] = lambda own: own,
) -> Layer:
    """All of FOLDS, one after the other. `total` sums losses over the ranks of the stage; each calls it once for every norm."""
    for fold in FOLDS:
        layer = fold_into(layer, fold, how, scales, total if fold.source.endswith("norm") else lambda own: own)
    return layer


def fold_into(layer: Layer, fold: Fold, how, scales: str, total) -> Layer:
    """Chooses the scales, multiplies the readers' columns, divides the source's rows. A rank without readers only takes part in the sum."""
    readers = [name for name in (f"{reader}.weight" for reader in fold.readers) if name in layer.arrays]
    own, of = np.zeros(len(ALPHAS)), None
    if readers:
        of = layer.of[readers[0]]
        if fold.source == "self_attn.v_proj":
            shared = to_heads(of_heads(of.mean, layer.heads, layer.kv_heads), layer.heads, layer.kv_heads)
            of = Statistics(shared, of.hessian, of.count)
        for name in readers:
            if how(name).bits not in (0, BFLOAT):
                rows = layer.arrays[name]
                own = own + losses(rows[:: max(1, len(rows) // SAMPLE)], how(name), of, scales)
    summed = total(own)
    if of is None or not summed.any():
        return layer
    s = best_scales(of.mean, summed)
    arrays, statistics = dict(layer.arrays), dict(layer.of)
    for name in readers:
        arrays[name] = arrays[name] * s
        statistics[name] = layer.of[name].scaled(s)
    if fold.source == "self_attn.v_proj":  # a row of v for all the heads that read it
        s = s.reshape(layer.kv_heads, layer.heads // layer.kv_heads, -1)[:, 0].reshape(-1)
    for name in (f"{fold.source}.weight", f"{fold.source}.bias"):
        if name in arrays:
            arrays[name] = (arrays[name].T / s).T
    return Layer(arrays, statistics, layer.heads, layer.kv_heads)
