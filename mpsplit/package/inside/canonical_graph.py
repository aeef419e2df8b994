"""A graph without its names and order.

In: an Anatomy. Out: lines, numbered along the data flow, that are equal when the graphs are.

Layers are taken depth first behind the outputs, in the order of their names, which are the
interface and stay. Where packed matrices lie among the packed weights is left out: what they hold
is compared by content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mpsplit.package.inside.anatomy import Anatomy
from mpsplit.package.param_text import Layer
from mpsplit.package.stored.quantisation import LAYER as QLINEAR

# of a QLinear: its ids modulo PRODUCT (package/stored/quantisation.py)
OFFSET, BIAS, PRODUCT = 4, 6, 10


@dataclass(frozen=True)
class Line:
    part: str
    text: str
    layer: Layer


def canonical(graph: Anatomy) -> tuple[Line, ...]:
    part_of = {layer.name: part for layer, part in zip(graph.layers, graph.parts, strict=True)}
    read = {blob for layer in graph.layers for blob in layer.bottoms}
    number: dict[str, str] = {}
    lines = []
    for place, layer in enumerate(_behind_outputs(graph.layers, read)):
        sources = [number[blob] for blob in layer.bottoms]
        number |= {blob: f"{place}.{i}" for i, blob in enumerate(layer.tops)}
        named = [blob for blob in layer.tops if layer.type == "Input" or blob not in read]
        params = [f"{key}={value}" for key, value in sorted(meaning(layer).items(), key=lambda p: int(p[0]))]
        lines.append(
            Line(part_of[layer.name], " ".join([layer.type, f"({' '.join(sources)})", *named, *params]), layer)
        )
    return tuple(lines)


def meaning(layer: Layer) -> dict[str, str]:
    """The parameters that say what a layer does, not where its weights lie."""
    if layer.type != QLINEAR:
        return layer.params
    places = {key: int(key) % PRODUCT for key in layer.params}
    kept = {key: value for key, value in layer.params.items() if places[key] != OFFSET}
    return kept | {key: "bias" for key, value in kept.items() if places[key] == BIAS and value != "-1"}


def _behind_outputs(layers: tuple[Layer, ...], read: set[str]) -> Iterable[Layer]:
    """Every layer after those that it reads."""
    producers = {blob: layer for layer in layers for blob in layer.tops}
    done: set[str] = set()
    waiting = [(producers[blob], False) for blob in sorted(set(producers) - read, reverse=True)]
    while waiting:
        layer, ready = waiting.pop()
        if ready:
            yield layer
        elif layer.name not in done:
            done.add(layer.name)
            waiting.append((layer, True))
            waiting += [(producers[blob], False) for blob in reversed(layer.bottoms)]
