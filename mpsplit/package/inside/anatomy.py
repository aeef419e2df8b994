"""Which part of the model each layer of a rank's graph belongs to.

In: a Param and the number of the rank's first decoder layer. Out: the graph's layers by part:
"inputs", "embedding", "layer 0", "layer 1", ..., then "head" or "sending".

Names, fusions and cuts do not matter: what is followed is the residual stream. Invariant: a decoder
layer adds to it twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.param_text import Layer, Param, without_splits
from mpsplit.package.stored.quantisation import LAYER as QLINEAR

INPUTS, EMBEDDING_PART, HEAD_PART, SENDING = "inputs", "embedding", "head", "sending"
ENTERING = ("AllReduce", "Recv")  # what may come before the first decoder layer
HIDDEN, LOGITS, NORM = "hidden", "logits", "RMSNorm"


@dataclass(frozen=True)
class Anatomy:
    """`layers` are without Splits, each blob of any number of readers; `parts` says where each of
    them belongs.

    `stream` are the blobs of the hidden state: what enters the first decoder layer, then two a
    layer.
    """

    layers: tuple[Layer, ...]
    parts: tuple[str, ...]
    stream: tuple[str, ...]

    def of(self, part: str) -> tuple[Layer, ...]:
        return tuple(layer for layer, its_part in zip(self.layers, self.parts, strict=True) if its_part == part)

    @property
    def in_order(self) -> tuple[str, ...]:
        """The parts that are there, each once; the inputs first."""
        each_once = dict.fromkeys(self.parts)
        return tuple(sorted(each_once, key=lambda part: part != INPUTS))

    @property
    def hidden_states(self) -> tuple[str, ...]:
        """The blobs between decoder layers: before the first, and after each."""
        return self.stream[::2]

    @property
    def normed(self) -> str | None:
        """What the last norm makes of the last hidden state, where this rank has a head."""
        return next((layer.tops[0] for layer in self.of(HEAD_PART) if layer.type == NORM), None)


def anatomy_of(path: Path, first_layer: int) -> Anatomy:
    """Of a .param file."""
    try:
        return anatomy(Param.load(path), first_layer)
    except FileNotFoundError:
        raise PackageError(f"there is no {path}; copy it here or convert the package again") from None
    except (AssertionError, ValueError, IndexError, KeyError) as wrong:
        raise PackageError(f"{path} is no graph that can be read ({wrong}); convert the package again") from None


def anatomy(param: Param, first_layer: int) -> Anatomy:
    layers = without_splits(param.layers)
    stream = _stream(layers)
    if len(stream) % 2 == 0:
        raise PackageError(
            f"the graph adds {len(stream) - 1} times to the hidden state, not twice a layer; convert the package again"
        )
    depths = _depths(layers, stream)
    last = HEAD_PART if any(LOGITS in layer.tops for layer in layers) else SENDING
    names = {0: EMBEDDING_PART, len(stream) // 2 + 1: last}
    parts = [
        INPUTS if depth is None else names.get(depth, f"layer {first_layer + depth - 1}")
        for depth in _with_their_readers(layers, depths)
    ]
    return Anatomy(tuple(layers), tuple(parts), tuple(stream))


def _enters(layer: Layer) -> bool:
    """Whether it may come before the first decoder layer; a product with a number is the
    embedding's."""
    return layer.type in ENTERING or layer.type == "BinaryOp" and len(layer.bottoms) == 1


def _adds(layer: Layer, blob: str) -> bool:
    """Whether the layer adds something to this blob."""
    if layer.type == QLINEAR and layer.params.get("8") == "1":
        return layer.bottoms[-1] == blob
    return (
        layer.type == "BinaryOp"
        and layer.params.get("0", "0") == "0"
        and blob in layer.bottoms[: len(layer.bottoms) * (len(layer.bottoms) == 2)]
    )


def _stream(layers: list[Layer]) -> list[str]:
    stream = [HIDDEN]
    while True:
        readers = [layer for layer in layers if stream[-1] in layer.bottoms]
        if added := next((layer for layer in readers if _adds(layer, stream[-1])), None):
            stream.append(added.tops[0])
        elif len(stream) == 1 and len(readers) == 1 and _enters(readers[0]):
            stream = [readers[0].tops[0]]
        else:
            return stream


def _depths(layers: list[Layer], stream: list[str]) -> list[int | None]:
    """0 before the first decoder layer, 1 in it, and so on; None for what does not come from the
    hidden state."""
    # where a reader of the stream is
    after = {blob: 1 + place // 2 for place, blob in enumerate(stream)}
    depth_of: dict[str, int] = {}
    depth_of_layers: list[int | None] = []
    for layer in layers:
        depths = [after.get(blob, depth_of.get(blob)) for blob in layer.bottoms]
        known = [depth for depth in depths if depth is not None]
        entering = (
            HIDDEN in layer.tops or (stream[0] != HIDDEN and HIDDEN in layer.bottoms) or layer.tops[0] == stream[0]
        )
        depth = 0 if entering else max(known, default=None)
        if layer.tops[0] in stream[1:]:
            depth = 1 + (stream.index(layer.tops[0]) - 1) // 2
        depth_of_layers.append(depth)
        if depth is not None:
            depth_of |= dict.fromkeys(layer.tops, depth)
    return depth_of_layers


def _with_their_readers(layers: list[Layer], depths: list[int | None]) -> list[int | None]:
    """What only one part reads, such as a bias or a layer's cache, belongs to it."""
    readers: dict[str, set[int | None]] = {}
    for layer, depth in zip(layers, depths, strict=True):
        for blob in layer.bottoms:
            readers.setdefault(blob, set()).add(depth)
    settled: list[int | None] = []
    for layer, depth in zip(layers, depths, strict=True):
        parts: set[int | None] = set().union(*(readers.get(blob, set()) for blob in layer.tops))
        settled.append(parts.pop() if depth is None and len(parts) == 1 else depth)
    return settled
