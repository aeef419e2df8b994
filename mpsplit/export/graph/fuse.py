"""The graph of the native engine: fewer, larger layers.

In: a rank's final Param. Out: the same graph with fused layers. model.param stays what any ncnn can
run, with layers in Python for the rest; fused.param has the layers of extensions/ncnn.

Invariant: the weights are the same files. No fusion changes which layers own arrays in the file of
floats, or their order.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.package.param_text import Layer, Param, with_splits, without_splits
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.quantisation import QLinear

TOP = 64  # of TopK, which mpsplit read up to 0.2 and passes over now
MOST = 3  # products of one QLinear
# parameters of a QLinear (extensions/ncnn/quantised_linear.h)
GATED, RESIDUAL = {"7": "1"}, {"8": "1"}
ADD, MULTIPLY = "0", "2"  # parameter 0 of a BinaryOp
OUTPUTS = ("hidden_out", "logits", "top")


def fuse(param: Param, first_row: int) -> Param:
    """`first_row`: the row of the vocabulary that this rank's slice of the head begins with."""
    graph = Graph(without_splits(param.layers))
    for fusion in (_attention, _gated, _shared_input, _residual):
        fusion(graph)
    if "logits" in graph.producers:
        graph.layers.append(Layer("TopK", "top", ("logits",), ("top",), {"0": str(TOP), "1": str(first_row)}))
    return Param(with_splits(_used(graph.layers)))


class Graph:
    """Layers in order, where a blob may have many readers."""

    def __init__(self, layers: list[Layer]):
        self._take(layers)

    def _take(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.producers: dict[str, Layer] = {blob: layer for layer in layers for blob in layer.tops}
        self.readers: dict[str, list[Layer]] = {}
        for layer in layers:
            for blob in layer.bottoms:
                self.readers.setdefault(blob, []).append(layer)

    def only_reader(self, blob: str, kind: str) -> Layer | None:
        readers = self.readers.get(blob, [])
        return readers[0] if len(readers) == 1 and readers[0].type == kind and blob not in OUTPUTS else None

    def of_type(self, kind: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.type == kind]

    def put(self, new: Layer, at: Layer, *gone: Layer) -> None:
        """`new` takes the place of `at`; the others, whose blobs it makes or nobody needs, go."""
        dropped = {layer.name for layer in gone}
        kept = [new if layer.name == at.name else layer for layer in self.layers]
        self._take([layer for layer in kept if layer.name not in dropped])

    def place(self, layer: Layer) -> int:
        return next(i for i, other in enumerate(self.layers) if other.name == layer.name)


def _attention(graph: Graph) -> None:
    """q, k, v -> Reshape -> [RMSNorm ->] Permute -> [RotaryEmbed ->] SDPA -> Permute -> Reshape
    becomes one Attention."""
    for sdpa in graph.of_type("SDPA"):
        q, heads, dim = _heads(graph, sdpa.bottoms[0], turned=True)
        k, kv_heads, _ = _heads(graph, sdpa.bottoms[1], turned=True)
        v, _, _ = _heads(graph, sdpa.bottoms[2], turned=False)
        permute = graph.only_reader(sdpa.tops[0], "Permute")
        reshape = graph.only_reader(permute.tops[0], "Reshape") if permute else None
        if not permute or not reshape:
            raise ConvertError(f"{sdpa.name} is not followed by Permute and Reshape ({sdpa})")
        params = {"0": heads, "1": kv_heads, "2": dim, "3": sdpa.params["6"]}
        graph.put(Layer("Attention", sdpa.name, (q, k, v), reshape.tops, params), sdpa, permute, reshape)


def _heads(graph: Graph, blob: str, turned: bool) -> tuple[str, str, str]:
    """(blob [rows, heads * dim], heads, dim) behind an input of SDPA; where heads have a norm, the
    blob is [rows][heads, dim]."""
    path = [graph.producers[blob]]
    for kind in ("RotaryEmbed", "Permute") if turned else ("Permute",):
        if path[-1].type != kind:
            raise ConvertError(
                f"{blob} comes from {path[-1].type}, not from {kind}; attention of this form is not known"
            )
        path.append(graph.producers[path[-1].bottoms[0]])
    norm = path.pop() if path[-1].type == "RMSNorm" else None
    reshape = graph.producers[norm.bottoms[0]] if norm else path[-1]
    dim, heads, rows = reshape.params["6"].strip('"').split(",")
    assert reshape.type == "Reshape" and rows == "0h", f"not rows into heads: {reshape}"
    return (norm.tops[0] if norm else reshape.bottoms[0]), heads, dim


def _product(layer: Layer, number: int) -> dict[str, str]:
    """The parameters of a QLinear of one product, as those of product `number` of a larger one."""
    return {str(10 * number + int(key)): value for key, value in layer.params.items()}


def _reading(layer: Layer) -> tuple[int, bool]:
    return QLinear.of(layer).reading


def _of_two(graph: Graph, operation: str) -> list[Layer]:
    """The BinaryOps of two blobs; with a number they have one."""
    return [b for b in graph.of_type("BinaryOp") if b.params.get("0") == operation and len(b.bottoms) == 2]


def _gated(graph: Graph) -> None:
    """silu(x G) * (x U) becomes one QLinear."""
    for multiply in _of_two(graph, MULTIPLY):
        silu, up = (graph.producers[blob] for blob in multiply.bottoms)
        if silu.type == QLINEAR:
            silu, up = up, silu
        gate = graph.producers[silu.bottoms[0]] if silu.type == "Swish" else silu
        fits = (
            gate.type == up.type == QLINEAR
            and gate.bottoms == up.bottoms
            and gate.params["6"] == up.params["6"] == "-1"
            and _reading(gate) == _reading(up)
        )
        if fits and gate is not silu:
            params = _product(up, 0) | _product(gate, 1) | GATED
            graph.put(Layer(QLINEAR, up.name, up.bottoms, multiply.tops, params), up, gate, silu, multiply)


def _shared_input(graph: Graph) -> None:
    """Linears of the same input become one, where the first of them was."""
    for blob in list(graph.readers):
        same = [layer for layer in graph.readers[blob] if layer.type == QLINEAR and "7" not in layer.params]
        for reading in dict.fromkeys(map(_reading, same)):
            alike = [layer for layer in same if _reading(layer) == reading][:MOST]
            if len(alike) > 1:
                tops = tuple(layer.tops[0] for layer in alike)
                params = {key: value for i, layer in enumerate(alike) for key, value in _product(layer, i).items()}
                graph.put(replace(alike[0], tops=tops, params=params), *alike)


def _residual(graph: Graph) -> None:
    """a + x W becomes one QLinear that adds."""
    for add in _of_two(graph, ADD):
        for blob, other in (add.bottoms, add.bottoms[::-1]):
            linear = graph.producers[blob]
            single = linear.type == QLINEAR and len(linear.tops) == 1 and not {"7", "8"} & set(linear.params)
            if single and graph.only_reader(blob, "BinaryOp"):
                if graph.place(graph.producers[other]) < graph.place(linear):
                    added = replace(
                        linear, bottoms=(*linear.bottoms, other), tops=add.tops, params=linear.params | RESIDUAL
                    )
                    graph.put(added, linear, add)
                break


def _used(layers: list[Layer]) -> list[Layer]:
    """Without what leads nowhere."""
    wanted, kept = set(OUTPUTS), []
    for layer in reversed(layers):
        if wanted.intersection(layer.tops):
            wanted.update(layer.bottoms)
            kept.append(layer)
    return kept[::-1]
