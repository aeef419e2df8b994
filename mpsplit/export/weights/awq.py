"""AWQ: input columns that carry large activations are scaled up before rounding.

In: weights that share an input, statistics of it. Out: a scale for each column.

With s = (mean |x|)^alpha, Q(W s) (x / s) loses less than Q(W) x for the alpha that a search finds
(Lin et al., arXiv 2306.00978). Dividing x costs nothing where it folds into what makes x: FOLDS.

Invariant: folding alone changes the model by no more than float rounding, and ranks that add up
their losses choose the same scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpsplit.export.weights.encode import dequantised, integers, output_errors
from mpsplit.export.weights.input_statistics import Statistics
from mpsplit.families import Family, roles
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation

ALPHAS = tuple(i / 20 for i in range(20))  # 0 is no scaling
# rows of a weight, at least, that losses are found on: enough to tell one alpha from another
SAMPLE = 256
SMALLEST = 1e-4  # of the mean: inputs that are nearly always 0 get no scale out of all proportion


@dataclass(frozen=True)
class Fold:
    """The inputs of `readers` are divided by dividing the rows (of a norm, its numbers) of
    `source`, in the same layer. `sums`: the ranks share the input, and so the choice; `by_heads`:
    a row is read by all the query heads of its KV head."""

    source: str
    readers: tuple[str, ...]
    sums: bool = False
    by_heads: bool = False


# no fold's source comes before it as a reader: what is chosen for columns does not depend on what
# rows are divided by
FOLDS = (
    (roles.ATTENTION_NORM, (roles.QUERY, roles.KEY, roles.VALUE)),
    (roles.VALUE, (roles.OUTPUT,)),
    (roles.MLP_NORM, (roles.GATE, roles.UP)),
    (roles.UP, (roles.DOWN,)),
)


def folds_of(family: Family) -> list[Fold]:
    """Within a decoder layer."""
    return [
        Fold(
            family.inside(source),
            tuple(map(family.inside, readers)),
            sums=source.cut.style == "whole",
            by_heads=source is roles.VALUE,
        )
        for source, readers in FOLDS
    ]


def head_fold(family: Family) -> Fold:
    """Outside of the layers, on the last stage."""
    return Fold(family.path(roles.NORM), (family.path(roles.HEAD),), sums=True)


def column_scales(mean: np.ndarray, alpha: float) -> np.ndarray:
    """float32 [k], around 1: the largest times the smallest is 1"""
    s = np.maximum(mean.astype(np.float64), max(float(mean.mean(dtype=np.float64)) * SMALLEST, 1e-30)) ** alpha
    return (s / np.sqrt(s.max() * s.min())).astype(np.float32)


def output_error(difference: np.ndarray, hessian: np.ndarray) -> float:
    """Mean over the inputs of |D x|^2, D [n, k]"""
    return float(output_errors(difference, hessian).sum())


def losses(
    rows: np.ndarray, how: Quantisation, of: Statistics, scales: str = "mse", alphas: Sequence[float] = ALPHAS
) -> np.ndarray:
    """float64 [alphas]: the output error of rows [n, k] for each; a sample of a weight's rows will
    do."""
    errors = []
    for alpha in alphas:
        s = column_scales(of.mean, alpha)
        errors.append(output_error(rounded(rows * s, how, scales) / s - rows, of.hessian))
    return np.array(errors)


def rounded(rows: np.ndarray, how: Quantisation, scales: str) -> np.ndarray:
    """What rows become when they are stored."""
    return dequantised(integers(rows, how, scales))


def best_scales(mean: np.ndarray, total_losses: np.ndarray, alphas: Sequence[float] = ALPHAS) -> np.ndarray:
    """The column scales with the least loss, where `total_losses` are summed over all readers of
    the input and all ranks."""
    return column_scales(mean, alphas[int(np.argmin(total_losses))])


def of_heads(mean: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Means of o_proj's inputs [heads * dim] as v_proj's rows [kv_heads * dim] can follow them:
    over the heads that share one."""
    return mean.reshape(kv_heads, heads // kv_heads, -1).mean(axis=1).reshape(-1)


def to_heads(s: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Scales of v_proj's rows as scales of o_proj's columns."""
    return np.repeat(s.reshape(kv_heads, 1, -1), heads // kv_heads, axis=1).reshape(-1)


@dataclass(frozen=True)
class Layer:
    """What one rank has of a decoder layer: rows of its linears (all or some: SAMPLE are enough)
    and Statistics by name within it ("mlp.up_proj.weight"); heads as cut for the rank."""

    rows: Mapping[str, np.ndarray]
    of: Mapping[str, Statistics]
    heads: int
    kv_heads: int


@dataclass(frozen=True)
class Scaling:
    """What folding does to one array: row i is divided by over[i], column j multiplied by times[j];
    None leaves them."""

    over: np.ndarray | None = None
    times: np.ndarray | None = None

    def __call__(self, array: np.ndarray, first: int = 0) -> np.ndarray:
        """Rows `first` and following of a weight, or numbers of a norm or bias."""
        if self.over is not None:
            array = (array.T / self.over[first : first + len(array)]).T
        return array if self.times is None else array * self.times

    def statistics(self, of: Statistics) -> Statistics:
        """Of what the linear is fed after folding."""
        return of if self.times is None else of.scaled(self.times)


def scalings(
    layer: Layer,
    folds: Sequence[Fold],
    how: Callable[[str], Quantisation],
    scales: str,
    total: Callable[[np.ndarray], np.ndarray] = lambda losses: losses,
) -> dict[str, Scaling]:
    """Scaling by name within the layer, for what changes. `total` sums losses over the ranks of the
    stage; each calls it once for every norm."""
    by_name: dict[str, Scaling] = {}
    for fold in folds:
        s = _scales_of(layer, fold, how, scales, total if fold.sums else lambda losses: losses)
        if s is None:
            continue
        for name in (f"{reader}.weight" for reader in fold.readers):
            by_name[name] = replace(by_name.get(name, Scaling()), times=s)
        if fold.by_heads:  # a row of v for all the heads that read it
            s = s.reshape(layer.kv_heads, layer.heads // layer.kv_heads, -1)[:, 0].reshape(-1)
        for name in (f"{fold.source}.weight", f"{fold.source}.bias"):
            by_name[name] = replace(by_name.get(name, Scaling()), over=s)
    return by_name


def _scales_of(layer: Layer, fold: Fold, how, scales: str, total) -> np.ndarray | None:
    """Of the readers' columns; None where nothing is rounded, and for a rank without readers, which
    only takes part in the sum."""
    readers = [name for name in (f"{reader}.weight" for reader in fold.readers) if name in layer.rows]
    if not readers:
        total(np.zeros(len(ALPHAS)))
        return None
    of = layer.of[readers[0]]
    if fold.by_heads:
        shared = to_heads(of_heads(of.mean, layer.heads, layer.kv_heads), layer.heads, layer.kv_heads)
        of = replace(of, mean=shared)
    own_losses = np.zeros(len(ALPHAS))
    for name in readers:
        if how(name).bits not in (0, BFLOAT):
            rows = layer.rows[name]
            own_losses = own_losses + losses(rows[:: max(1, len(rows) // SAMPLE)], how(name), of, scales)
    all_losses = total(own_losses)
    return best_scales(of.mean, all_losses) if all_losses.any() else None
