"""What a rank of a package holds, part by part, in bytes.

In: a package, a rank, a context. Out: Contents; nothing is read but graphs.

Invariant: the weights of the parts are what the rank's weight files have, but for padding between
them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mpsplit.package.inside.anatomy import EMBEDDING_PART, anatomy_of
from mpsplit.package.manifest import FUSED, GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Layer
from mpsplit.package.stored.embedding import HEAD_ROWS, stored_row
from mpsplit.package.stored.float_weights import arrays_of, gemm_shape, has_bias
from mpsplit.package.stored.quantisation import GEMM, QLinear, Quantisation
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.plan.price.sizes import cache_bytes

ATTENTION = "SDPA"
FLOAT = 4  # bytes of a weight that is not quantised


@dataclass(frozen=True)
class PartSizes:
    """`weights` in elements, everything else in bytes; `kinds` counts the elements of its matrices
    by their bits."""

    name: str
    weights: int
    weight_bytes: int
    cache_bytes: int
    graph_bytes: int
    kinds: dict[str, int]

    @property
    def bits(self) -> float:
        """A weight, as stored."""
        return 8 * self.weight_bytes / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Contents:
    rank: int
    parts: tuple[PartSizes, ...]

    @property
    def total(self) -> PartSizes:
        kinds: Counter[str] = Counter()
        for part in self.parts:
            kinds.update(part.kinds)
        return PartSizes(
            "total",
            sum(part.weights for part in self.parts),
            sum(part.weight_bytes for part in self.parts),
            sum(part.cache_bytes for part in self.parts),
            sum(part.graph_bytes for part in self.parts),
            dict(kinds),
        )

    def part(self, name: str) -> PartSizes | None:
        return next((part for part in self.parts if part.name == name), None)


def contents(package: Path, manifest: Manifest, rank: int, context: int) -> Contents:
    """`context` in tokens: how long the cache of keys and values is. No parts where the rank's
    files are on another machine."""
    folder, shard = rank_folder(package, rank), manifest.plan.shards[rank]
    if not (folder / GRAPH).is_file():
        return Contents(rank, ())
    graph, fused = (anatomy_of(folder / name, shard.layers.start) for name in (GRAPH, FUSED))
    cache = cache_bytes(manifest.facts, len(shard.kv_heads), context)
    return Contents(
        rank,
        tuple(
            _part(
                name,
                graph.of(name),
                cache,
                sum(len(str(layer)) + 1 for text in (graph, fused) for layer in text.of(name)),
                *(_table(manifest, rank) if name == EMBEDDING_PART else (0, 0)),
            )
            for name in graph.in_order
        ),
    )


def _table(manifest: Manifest, rank: int) -> tuple[int, int]:
    """(weights, bytes) of the rows of its embedding: none where the head is the embedding."""
    rows, width = len(manifest.plan.shards[rank].embed), manifest.facts.hidden
    return 0 if manifest.dtype == HEAD_ROWS else rows * width, rows * stored_row(manifest.dtype, width)


def stored(layer: Layer) -> tuple[int, int]:
    """(weights, bytes) that a layer of model.param owns in the rank's files, biases and norms among
    them."""
    if layer.type == QLINEAR:
        q = QLinear.of(layer)
        bias = q.n if q.bias >= 0 else 0
        return q.n * q.k + bias, q.bytes + FLOAT * bias
    arrays = arrays_of(layer)
    size = sum(array.bytes for array in arrays)
    if layer.type == GEMM:  # several weights may be in a byte
        n, k = gemm_shape(layer)
        return n * (k + has_bias(layer)), size
    return sum(prod(array.shape) for array in arrays), size


def stored_as(layer: Layer) -> tuple[str, int] | None:
    """How the matrix of a layer is stored, and its elements; None where there is none."""
    kind = Quantisation.of(layer)
    if not kind:
        return None
    n, k = (QLinear.of(layer).n, QLinear.of(layer).k) if layer.type == QLINEAR else gemm_shape(layer)
    whose = ", ncnn" if layer.type == GEMM else ""
    return f"{kind}{whose}", n * k


def _part(name: str, layers: tuple[Layer, ...], cache: int, graph: int, weights: int, size: int) -> PartSizes:
    held = [stored(layer) for layer in layers]
    kinds: Counter[str] = Counter()
    for kind, elements in filter(None, map(stored_as, layers)):
        kinds[kind] += elements
    return PartSizes(
        name,
        weights + sum(count for count, _ in held),
        size + sum(count for _, count in held),
        cache * sum(layer.type == ATTENTION for layer in layers),
        graph,
        dict(kinds),
    )
