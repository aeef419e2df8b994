"""What pnnx makes of a traced slice, as a graph.

In: the text of its .pnnx.param. Out: a Graph whose operators are pnnx's, opaque here, with the
types that it says. A length that it does not say is a symbol: the one of what an operator reads,
where a rule says that it stays, or else one of its own.

Invariant: each operator but inputs, outputs and constants of weights is a step, in pnnx's order.
"""

from __future__ import annotations

import re

from mpsplit.errors import GraphError, PackageError
from mpsplit.graph.foreign.kept_lengths import kept_lengths
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.symbols import Size
from mpsplit.graph.typed_graph import Graph, Value
from mpsplit.graph.value_types import NOT_KNOWN, PLAIN, ValueType, plain
from mpsplit.package.param_text import Layer, Param

SAID = re.compile(r"\(((?:(?:\?|\d{1,18}),?)*)\)([a-z]\w*)", re.ASCII)
INPUT, OUTPUT, ATTRIBUTE, TUPLE = "pnnx.Input", "pnnx.Output", "pnnx.Attribute", "prim::TupleConstruct"
OPERAND, WEIGHT, NAMED = "#", "@", "$"  # what begins the key of a type, a weight, an operand's role


def pnnx_graph(text: str, title: str) -> Graph:
    """Unfolded."""
    try:
        layers = Param.parse(text).layers
    except PackageError as wrong:
        raise GraphError(f"this is none of pnnx's graphs: {wrong}") from None
    view = _View(GraphBuilder(title))
    for layer in layers:
        view.add(layer)
    return view.builder.graph()


class _View:
    """A graph while it is read. `values` by the numbers of pnnx's operands; a tuple is several."""

    def __init__(self, builder: GraphBuilder):
        self.builder, self.lengths = builder, 0
        self.values: dict[str, list[Value]] = {}

    def add(self, layer: Layer) -> None:
        kind, reads = layer.type, [value for blob in layer.bottoms for value in self._read(blob, layer)]
        if kind == INPUT:
            for top in layer.tops:
                type = self._type(layer, layer.params.get(OPERAND + top, ""), [])
                self.values[top] = [self.builder.input(_local(layer.name), type)]
        elif kind == OUTPUT:
            for value in reads:
                self.builder.output(value)
        elif kind == TUPLE:
            self.values[layer.tops[0]] = reads
        else:
            weights = [
                self.builder.weight(_local(f"{layer.name}.{key[1:]}"), self._type(layer, said, []), layer.name + key)
                for key, said in layer.params.items() if key.startswith(WEIGHT)
            ]  # fmt: skip
            if kind == ATTRIBUTE:
                self.values[layer.tops[0]] = weights
            else:
                self._step(layer, reads, weights)

    def _step(self, layer: Layer, reads: list[Value], weights: list[Value]) -> None:
        words = {key: said for key, said in layer.params.items() if key[0] not in OPERAND + WEIGHT + NAMED}
        types = [value.type for value in reads]
        makes = [Value(f"v{top}", self._type(layer, layer.params.get(OPERAND + top, ""), types)) for top in layer.tops]
        if makes:
            made = self.builder.foreign(operator_name(layer.type), [*reads, *weights], makes, words)
            self.values |= {top: [value] for top, value in zip(layer.tops, made, strict=True)}

    def _read(self, blob: str, layer: Layer) -> list[Value]:
        if blob not in self.values:
            raise GraphError(f"{layer.name} of pnnx's graph reads {blob[:40]!a}, which nobody makes before it")
        return self.values[blob]

    def _type(self, layer: Layer, said: str, reads: list[ValueType]) -> ValueType:
        found = SAID.fullmatch(said)
        if found is None or found[2] not in PLAIN or "0" in found[1].split(","):
            return NOT_KNOWN
        made = [None if word == "?" else int(word) for word in found[1].split(",") if word]
        sizes = kept_lengths(layer.type, layer.params, reads, made)
        return plain(*(self._length() if size is None else size for size in sizes), element=found[2])

    def _length(self) -> Size:
        self.lengths += 1
        return Size.parse(f"n{self.lengths}")


def operator_name(kind: str) -> str:
    """aten::size as aten.size; a point is in each."""
    name = kind.replace("::", ".")
    return name if "." in name else f"pnnx.{name}"


def _local(name: str) -> str:
    local = re.sub(r"[^\w.]", "_", name, flags=re.ASCII)
    return local if re.match(r"[A-Za-z_]", local) else f"w.{local}"
