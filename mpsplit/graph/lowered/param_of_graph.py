"""A graph as the layers of ncnn that it stands for: the way back of shown/engine_view.py.

In: a Graph, what says where a matrix in panels lies. Out: a Param.

Each step is a layer, called by the module whose weights it has. Inputs and outputs have their names
outside, all other blobs those of their values. Invariant: read again, it is the graph that it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mpsplit.errors import GraphError
from mpsplit.graph.folding.unfolding import unfolded
from mpsplit.graph.operator_table import PICK
from mpsplit.graph.shape_rules import operator_of
from mpsplit.graph.typed_graph import Given, Graph, Region, Step, free_name
from mpsplit.graph.value_types import ValueType
from mpsplit.package.checked.graph_check import HIDDEN_OUT
from mpsplit.package.checked.layer_shapes import STEP, linears_of
from mpsplit.package.param_text import Layer, Param, with_splits
from mpsplit.package.stored.quantisation import LAYER, QLinear
from mpsplit.package.stored.weight_files import PackedPlaces

Place = Callable[[str, QLinear], QLinear]  # a module's name, its matrix -> the same where it lies
WEIGHT, BIAS = ".weight", ".bias"


def in_order(group_of: Callable[[str], object]) -> Place:
    """One matrix after the other, a file for each group of modules."""
    places = PackedPlaces()
    return lambda module, linear: places.place(linear, group_of(module))


def as_placed(param: Param) -> Place:
    """Where another graph of the same weights has them."""
    known = {layer.name: QLinear.of(layer) for layer in param.of_type(LAYER)}

    def place(module: str, linear: QLinear) -> QLinear:
        if module not in known or replace(known[module], offset=0, bias=min(known[module].bias, 0)) != linear:
            raise GraphError(f"{module} has a matrix {linear.n} x {linear.k}, the other graph {known.get(module)}")
        return known[module]

    return place


def param_of(graph: Graph, place: Place) -> Param:
    """`graph` may have repeats."""
    body = unfolded(graph).body
    writing = _Writing(body, place)
    for given in body.inputs:
        writing.layers.append(Layer("Input", given.source, (), (writing.blob[given.name],)))
    for step in body.steps:
        assert isinstance(step, Step)
        writing.add(step)
    return Param(with_splits(writing.layers))


class _Writing:
    """A Param while it is written. `blob`: the blob of each value; `left`: weights that no layer
    has yet."""

    def __init__(self, body: Region, place: Place):
        self.place, self.layers = place, list[Layer]()
        self.left = {given.name: given for given in body.weights}
        self.outside = _names_outside(body)
        self.taken = {*self.outside.values(), *(given.source for given in body.given)}
        self.taken |= {given.source.removesuffix(WEIGHT) for given in body.weights}
        self.blob = {given.name: self.outside[given.name] for given in body.inputs}
        self.types: dict[str, ValueType] = {given.name: given.type for given in body.given}

    def add(self, step: Step) -> None:
        if step.operator == PICK:
            self._pick(step)
            return
        operator = operator_of(step.operator)
        count = len(operator.values)
        reads, weights = step.reads[:count], [self._take(name, step) for name in step.reads[count:]]
        layer = operator.layer_of([self.types[name] for name in step.reads], dict(step.attributes))
        bottoms = tuple(self._read(name, step) for name in reads)
        for value in step.makes:
            self.types[value.name] = value.type
            self.blob[value.name] = self.outside.get(value.name) or free_name(value.name, self.taken)
        tops = tuple(self.blob[value.name] for value in step.makes)
        modules = _modules(weights)
        name = next(iter(modules), "") or free_name(step.makes[0].name, self.taken)
        layer = replace(layer, name=name, bottoms=bottoms, tops=tops)
        self.layers.append(self._placed(layer, modules) if layer.type == LAYER else layer)

    def _pick(self, step: Step) -> None:
        """No layer: what reads the last hidden state is given the rows that are wanted."""
        (read,), (value,) = step.reads, step.makes
        if self.outside.get(read) != HIDDEN_OUT:
            raise GraphError(f"{PICK} reads {read}; an engine picks rows of the output {HIDDEN_OUT} alone")
        self.blob[value.name], self.types[value.name] = self.blob[read], value.type

    def _read(self, name: str, step: Step) -> str:
        if name in self.left:
            self._constant(self._take(name, step))
        if self.outside.get(name) == HIDDEN_OUT:
            raise GraphError(f"{step.operator} reads {name}, the output {HIDDEN_OUT}; after it only {PICK} may stand")
        return self.blob[name]

    def _constant(self, given: Given) -> None:
        """A weight that is read as a value, such as a bias that is added after a sum."""
        if len(given.type.shape) != 1 or given.type.element != "f32":
            raise GraphError(f"{given.source} is {given.type}; as a value there may only be a row of f32")
        self.blob[given.name] = free_name(given.name, self.taken)
        size = str(given.type.shape[0])
        self.layers.append(Layer("MemoryData", given.source, (), (self.blob[given.name],), {"0": size}))

    def _take(self, name: str, step: Step) -> Given:
        if name not in self.left:
            raise GraphError(f"{step.operator} reads {name} as a weight, which it is not, or another step has it")
        return self.left.pop(name)

    def _placed(self, layer: Layer, modules: Mapping[str, int]) -> Layer:
        params = dict(layer.params)
        for i, (module, linear) in enumerate(zip(modules, linears_of(layer), strict=True)):
            params |= {str(STEP * i + int(key)): value for key, value in self.place(module, linear).params().items()}
        return replace(layer, params=params)


def _modules(weights: list[Given]) -> dict[str, int]:
    """The modules that have these weights, in order, and how many each has: a matrix or a row, then
    maybe its bias."""
    modules: dict[str, int] = {}
    for given in weights:
        module, name = given.source.removesuffix(WEIGHT), given.source
        if module == name:
            module = name.removesuffix(BIAS)
            if module == name or modules.get(module) != 1:
                raise GraphError(f"{name} is no weight: these are called MODULE{WEIGHT}, with MODULE{BIAS} behind it")
        elif module in modules:
            raise GraphError(f"{name} is a weight twice")
        modules[module] = modules.get(module, 0) + 1
    return modules


def _names_outside(body: Region) -> dict[str, str]:
    """By the names of values: what an engine calls its inputs and outputs."""
    names = {given.name: given.source for given in body.inputs}
    for output in body.outputs:
        if output.value in names:
            raise GraphError(
                f"the output {output.name} is {names[output.value]} already; an engine's value has one name"
            )
        names[output.value] = output.name
    return names
