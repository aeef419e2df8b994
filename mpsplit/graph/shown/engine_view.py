"""The graph of an engine, as it stands in a package.

In: a Param, what the manifest says of its rank. Out: the same graph with typed values, its equal
layers folded.

Splits go: a value may have many readers. Weights become values, called outside as Hugging Face
calls them. The rows whose logits are wanted, which the engine takes between two layers, are a step.
Invariant: the Param is one that an engine may be given (checked/graph_check.py), and each of its
other layers is one step.
"""

from __future__ import annotations

import re
from pathlib import Path

from mpsplit.errors import GraphError, PackageError
from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.graph_checks import NAME
from mpsplit.graph.linear_layers import weights_of_linear
from mpsplit.graph.operator_kind import Said
from mpsplit.graph.operator_table import OPERATORS, PICK
from mpsplit.graph.symbols import Size
from mpsplit.graph.typed_graph import Graph, Value
from mpsplit.graph.value_types import ValueType, plain
from mpsplit.package.checked.graph_check import HIDDEN_OUT, check_shapes
from mpsplit.package.checked.layer_shapes import ALL, ANSWERS, PAST, ROWS, RankSizes, Shape
from mpsplit.package.manifest import FUSED, GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Layer, Param, without_splits
from mpsplit.package.stored.float_weights import arrays_of, weights_of
from mpsplit.package.stored.quantisation import GEMM, LAYER, QLinear

SYMBOLS = {name: Size.parse(text) for name, text in
           ((ROWS, "rows"), (ANSWERS, "answers"), (PAST, "past"), (ALL, "past+rows"))}  # fmt: skip
GATED = "gated_linear"
ENDS = (HIDDEN_OUT, "logits", "top")  # outputs that keep their names inside


def package_graph(package: Path, manifest: Manifest, rank: int, unfold: bool = False) -> Graph:
    """The native engine's graph of a rank. The wheel's graph says what fused matrices are called:
    they lie at the same offsets."""
    folder, shard = rank_folder(package, rank), manifest.plan.shards[rank]
    plain_graph, param = Param.load(folder / GRAPH), Param.load(folder / FUSED)
    names = {QLinear.of(layer).offset: layer.name for layer in plain_graph.of_type(LAYER)}
    title = f"{manifest.model}: rank {rank} of {manifest.plan.ranks}, layers {shard.layers}"
    try:
        graph = engine_graph(param, RankSizes.of(manifest, rank, True), title, names)
    except PackageError as wrong:
        raise PackageError(f"{folder / FUSED} is damaged ({wrong}); convert the package again") from None
    return graph if unfold else folded(graph)


def engine_graph(param: Param, sizes: RankSizes, title: str, names: dict[int, str] | None = None) -> Graph:
    """Unfolded. `names`: of matrices in panels, by their offset."""
    check_shapes(param, sizes)
    view = _View(GraphBuilder(title), sizes, names or {})
    for layer in without_splits(param.layers):
        view.add(layer)
    for name in sizes.outputs():
        view.builder.output(view.values[name], name)
    return view.builder.graph()


def type_of(shape: Shape) -> ValueType:
    """Of a blob, whose last size stands first."""
    return plain(*(size if isinstance(size, int) else SYMBOLS[size] for size in reversed(shape)))


class _View:
    """A graph while it is read: `values` by the names of their blobs."""

    def __init__(self, builder: GraphBuilder, sizes: RankSizes, names: dict[int, str]):
        self.builder, self.sizes, self.names = builder, sizes, names
        self.values: dict[str, Value] = {}
        self.wanted: Value | None = None

    def add(self, layer: Layer) -> None:
        if layer.type == "Input":
            (name,) = layer.tops
            self.values[name] = self.builder.input(name, type_of(self.sizes.inputs()[name]))
            return
        weights = [self._weight(source, type) for source, type in self._weights(layer)]
        if layer.type == "MemoryData":
            self.values[layer.tops[0]] = weights[0]
            return
        operator, said = operator_of_layer(layer)
        reads = [self._read(blob) for blob in layer.bottoms]
        names = _names(operator, weights, len(layer.tops))
        if layer.tops[0] in ENDS:
            names = list(layer.tops)
        made = self.builder.steps(operator, *reads, *weights, names=names, **said)
        self.values |= dict(zip(layer.tops, made, strict=True))

    def _read(self, blob: str) -> Value:
        """After the last hidden state go the rows whose logits are wanted."""
        if blob != HIDDEN_OUT:
            return self.values[blob]
        if self.wanted is None:
            self.wanted = self.builder.step(PICK, self.values[blob])
        return self.wanted

    def _weights(self, layer: Layer) -> list[tuple[str, ValueType]]:
        if layer.type in (GEMM, LAYER):
            return weights_of_linear(layer, self.names)
        return [(name, plain(*array.shape)) for name, array in zip(weights_of(layer), arrays_of(layer), strict=True)]

    def _weight(self, source: str, type: ValueType) -> Value:
        return self.builder.weight(_local(source), type, source)


def operator_of_layer(layer: Layer) -> tuple[str, Said]:
    for name, operator in OPERATORS.items():
        if (said := operator.said_of(layer)) is not None and (
            layer.type == GEMM or len(layer.bottoms) == len(operator.values)
        ):
            return name, said
    raise GraphError(f"no operator is {layer.name!a}, a {layer.type[:40]!a} with {layer.params}; OPERATORS lacks it")


def _names(operator: str, weights: list[Value], count: int) -> list[str]:
    """Of what a layer makes: the modules whose weights it has; none where the operator says it."""
    matrices = [weight for weight in weights if len(weight.type.shape) == 2] or weights
    modules = [weight.name.rpartition(".")[0] or weight.name for weight in matrices]
    return modules if operator != GATED and len(modules) == count else []


def _local(source: str) -> str:
    """model.layers.0.mlp.up_proj.weight as up_proj.weight."""
    name = re.sub(r"[^\w.]", "_", ".".join(source.split(".")[-2:]), flags=re.ASCII)
    return name if re.fullmatch(NAME, name, re.ASCII) else f"w.{name}"
