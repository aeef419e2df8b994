"""A rank's graph as boxes and lines, for pictures.

In: an Anatomy. Out: a Chart: equal decoder layers that follow each other once, with how many they
are.

Cos, sin, mask and the past of the cache are left out: every attention reads them, and their lines
would hide the others. Invariant: blocks follow each other in the order of the data flow, and lines
go down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from mpsplit.package.collectives import BY_LAYER
from mpsplit.package.inside.anatomy import INPUTS, Anatomy
from mpsplit.package.inside.canonical_graph import meaning
from mpsplit.package.inside.rank_contents import stored, stored_as
from mpsplit.package.param_text import Layer
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.quantisation import QLinear, Quantisation

HIDDEN, TALK, WEIGHTS, ATTENTION, OTHER = "hidden", "talk", "weights", "attention", "other"
GROUPS = {"0": "world", "1": "stage"}  # ids of package/collectives.py
PEERS = ("Send", "Recv")
MOST = 3  # products of a QLinear


@dataclass(frozen=True)
class Node:
    """`row` counts from the top of its block."""

    name: str
    lines: tuple[str, ...]
    kind: str
    row: int


@dataclass(frozen=True)
class Block:
    """A part of the model, or `count` equal ones."""

    title: str
    count: int
    nodes: tuple[Node, ...]

    @property
    def heading(self) -> str:
        return self.title if self.count == 1 else f"{self.title}: each like this, x {self.count}"


@dataclass(frozen=True)
class Chart:
    """`edges` are pairs of names."""

    blocks: tuple[Block, ...]
    edges: tuple[tuple[str, str], ...]


def chart(graph: Anatomy, unfold: bool = False) -> Chart:
    parts = [part for part in graph.in_order if part != INPUTS]
    shape = {part: _shape(graph.of(part)) for part in parts}
    groups = [[part] for part in parts] if unfold else [list(g) for _, g in groupby(parts, shape.__getitem__)]
    edges = _edges(graph)
    blocks = tuple(Block(_title(group), len(group), _nodes(graph.of(group[0]), edges)) for group in groups)
    drawn = {node.name for block in blocks for node in block.nodes}
    stand_in = {
        other.name: mine.name
        for group in groups
        for part in group
        for other, mine in zip(graph.of(part), graph.of(group[0]), strict=True)
    }  # what leaves the last of equal parts leaves the first, which is drawn for all of them
    return Chart(blocks, tuple(dict.fromkeys((stand_in[a], b) for a, b in edges if b in drawn)))


def _shape(layers: Iterable[Layer]) -> tuple[object, ...]:
    """What makes two parts equal: the layers and how they hang together, without names."""
    place: dict[str, int] = {}
    lines = []
    for i, layer in enumerate(layers):
        lines.append((layer.type, tuple(place.get(blob, -1) for blob in layer.bottoms), tuple(meaning(layer).items())))
        place |= dict.fromkeys(layer.tops, i)
    return tuple(lines)


def _title(group: list[str]) -> str:
    return group[0] if len(group) == 1 else f"{group[0]} .. {group[-1].split()[-1]}"


def _edges(graph: Anatomy) -> list[tuple[str, str]]:
    """(producer, reader) by the names of layers, but for what comes from the inputs."""
    drawn = [layer for layer, part in zip(graph.layers, graph.parts, strict=True) if part != INPUTS]
    made = {blob: layer.name for layer in drawn for blob in layer.tops if not _is_past(layer)}
    return [(made[blob], layer.name) for layer in drawn for blob in layer.bottoms if blob in made]


def _is_past(layer: Layer) -> bool:
    return layer.type == "Input" and layer.name != "hidden"


def _nodes(layers: tuple[Layer, ...], edges: list[tuple[str, str]]) -> tuple[Node, ...]:
    """Each below all that it reads."""
    rows: dict[str, int] = {}
    nodes = []
    for layer in layers:
        if not _is_past(layer):
            rows[layer.name] = 1 + max((rows[a] for a, b in edges if b == layer.name and a in rows), default=-1)
            nodes.append(Node(layer.name, _lines(layer), _kind(layer), rows[layer.name]))
    return tuple(nodes)


def _kind(layer: Layer) -> str:
    if layer.type in BY_LAYER:
        return TALK
    if layer.type in ("SDPA", "Attention"):
        return ATTENTION
    return HIDDEN if layer.type == "Input" else WEIGHTS if stored(layer)[0] else OTHER


def _lines(layer: Layer) -> tuple[str, ...]:
    """What a box says: the type, and what matters of the parameters."""
    if layer.type in BY_LAYER:
        peer = f", rank {layer.params['2']}" if layer.type in PEERS else ""
        return (layer.type, GROUPS.get(layer.params.get("1", ""), "?") + peer)
    if layer.type == QLINEAR:
        return (_linear_title(layer), *_products(layer))
    if kind := stored_as(layer):
        return (layer.type, f"{layer.params['8']} x {layer.params['9']}, {kind[0]}")
    if layer.type in ("Input", "TopK"):
        return (layer.type, layer.name)
    if layer.type == "BinaryOp":
        return ({"0": "add", "2": "multiply"}.get(layer.params.get("0", "0"), layer.type),)
    if layer.type == "Attention":
        return (layer.type, f"{layer.params['0']} heads on {layer.params['1']}, {layer.params['2']} wide")
    return (layer.type,)


def _linear_title(layer: Layer) -> str:
    if layer.params.get("7") == "1":
        return f"{QLINEAR}: product x silu(product)"
    return f"{QLINEAR} + residual" if layer.params.get("8") == "1" else QLINEAR


def _products(layer: Layer) -> list[str]:
    products = []
    for i in range(MOST):
        params = {key[-1]: value for key, value in layer.params.items() if int(key) // 10 == i and int(key) % 10 < 7}
        if params:
            q = QLinear.of(replace(layer, params=params))
            products.append(f"{q.n} x {q.k}, {Quantisation(q.bits, q.block)}")
    return products
