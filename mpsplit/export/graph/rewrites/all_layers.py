"""Two decoder layers become all of the rank's.

What repeats in the miniature is stamped out, each time with the next decoder layer's names:

    head | first | second | tail   becomes   head | first | ... as often as there are layers | tail

Where a decoder layer begins is the first layer that owns a weight of it, or its first collective
where it owns none, and what both have before that.

Invariant: both are equal up to names. Each reads of the one before a single blob, the hidden state.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.param_text import Layer, Param, with_splits, without_splits

SUMS = 2  # collectives of a decoder layer that owns nothing here
OUTPUTS = ("hidden_out", "logits")
Blobs = dict[str, str]  # of one decoder layer -> of another


def all_layers(param: Param, context: Context) -> Param:
    wanted = context.layers
    if len(wanted) < 2:
        return Param(with_splits(without_splits(param.layers)))
    layers = without_splits(param.layers)
    start, length = _period(layers, context)
    first, second = layers[start : start + length], layers[start + length : start + 2 * length]
    same = _same(first, second, context)
    entering = [blob for blob in same if all(blob not in layer.tops for layer in first)]
    if len(entering) != 1:
        raise ConvertError(
            f"a decoder layer reads {len(entering)} blobs of the one before; expected the hidden state alone"
        )
    out = layers[:start]
    names: Blobs = {}
    for i in wanted:
        before = {entering[0]: names.get(same[entering[0]], entering[0])}
        names = _names(first, i)
        if i == wanted.stop - 1:  # what an engine asks for keeps its name
            names |= {blob: same[blob] for blob in names if same[blob] in OUTPUTS}
        out += _stamped(first, i, context, names | before)
    last = {same[blob]: name for blob, name in names.items()}
    return Param(with_splits(out + [layer.rename(last) for layer in layers[start + 2 * length :]]))


def _period(layers: list[Layer], context: Context) -> tuple[int, int]:
    """Where the first decoder layer begins, and of how many layers it consists."""
    owns = [i for n in (0, 1) for i in _owners(layers, _prefix(context, context.layers.start + n))[:1]]
    if len(owns) < 2:
        owns = [i for i, layer in enumerate(layers) if layer.type == "AllReduce"][-2 * SUMS :: SUMS]
    if len(owns) < 2:
        raise ConvertError(
            "nothing tells one decoder layer from the next: this rank owns no weights of them and sums nothing"
        )
    first, second = owns
    both = 0  # so many before that belong to the decoder layer too
    while both < first and _kind(layers[first - both - 1]) == _kind(layers[second - both - 1]):
        both += 1
    return first - min(both, _spare(layers, first, second)), second - first


def _spare(layers: list[Layer], first: int, second: int) -> int:
    """How many layers of the second decoder layer are not behind its beginning."""
    ahead = 0
    while second + ahead < len(layers) and _kind(layers[first + ahead]) == _kind(layers[second + ahead]):
        ahead += 1
    return max(0, second - first - ahead)


def _kind(layer: Layer) -> tuple:
    return layer.type, layer.params, len(layer.bottoms)


def _prefix(context: Context, number: int) -> str:
    """What the names of a decoder layer's weights begin with."""
    return f"{context.path}.{number}."


def _owners(layers: list[Layer], prefix: str) -> list[int]:
    return [i for i, layer in enumerate(layers) if layer.name.startswith(prefix)]


def _same(first: list[Layer], second: list[Layer], context: Context) -> Blobs:
    """The blobs of the first decoder layer in the second, when they are equal up to names; also
    that which the first reads of what is before it."""
    same: Blobs = {}
    prefix, next_prefix = (_prefix(context, context.layers.start + n) for n in (0, 1))
    if len(first) != len(second):
        raise ConvertError(f"two decoder layers became {len(first)} and {len(second)} layers; they must be alike")
    for a, b in zip(first, second, strict=True):
        owned = a.name.startswith(prefix)
        alike = _kind(a) == _kind(b) and (not owned or a.name.replace(prefix, next_prefix, 1) == b.name)
        for x, y in zip(a.bottoms, b.bottoms, strict=alike):
            alike &= same.get(x, y) == y
            if x != y:
                same[x] = y
        if not alike:
            raise ConvertError(f"two decoder layers became different layers: ({a}) and ({b})")
        same |= dict(zip(a.tops, b.tops, strict=True))
    return same


def _names(decoder_layer: list[Layer], number: int) -> Blobs:
    blobs = [blob for layer in decoder_layer for blob in layer.tops]
    return {blob: f"{number}.{i}" for i, blob in enumerate(blobs)}


def _stamped(first: list[Layer], number: int, context: Context, names: Blobs) -> list[Layer]:
    """The first decoder layer as this one: layers with weights are named for them, the others by
    number."""
    prefix, own_prefix = _prefix(context, context.layers.start), _prefix(context, number)
    out = []
    for i, layer in enumerate(first):
        owned = layer.name.startswith(prefix)
        name = layer.name.replace(prefix, own_prefix, 1) if owned else f"{number}.{layer.type}.{i}"
        out.append(replace(layer.rename(names), name=name))
    return out
