"""Splits off and on again.

Without them a blob may have many readers, which is how a graph is best changed.

In: layers of a Param. Out: the same graph without its Splits, or with one behind each blob that
several layers read.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.package.param_text import Layer


def without_splits(layers: tuple[Layer, ...]) -> list[Layer]:
    source: dict[str, str] = {}
    for layer in layers:
        if layer.type == "Split":
            source |= dict.fromkeys(layer.tops, source.get(layer.bottoms[0], layer.bottoms[0]))
    return [
        replace(layer, bottoms=tuple(source.get(b, b) for b in layer.bottoms))
        for layer in layers
        if layer.type != "Split"
    ]


def with_splits(layers: list[Layer]) -> tuple[Layer, ...]:
    """Every blob with one reader again."""
    readers: dict[str, int] = {}
    for layer in layers:
        for blob in layer.bottoms:
            readers[blob] = readers.get(blob, 0) + 1
    handed: dict[str, list[str]] = {}
    out = []
    for layer in layers:
        out.append(replace(layer, bottoms=tuple(handed[b].pop(0) if b in handed else b for b in layer.bottoms)))
        for blob in layer.tops:
            if readers.get(blob, 0) > 1:
                handed[blob] = [f"{blob}_{i}" for i in range(readers[blob])]
                out.append(Layer("Split", f"split_{blob}", (blob,), tuple(handed[blob])))
    return tuple(out)
