"""The linears of a captured graph that can be divided, and the parts that several ranks compute.

In: a Capture, index lists by module. Out: of a stage, its Parts in order, and what is left for its
own graph.

A column-cut linear that follows row-cut ones with the same lists, through operators that look at
each number alone, is one part with them: what lies between needs no gathering. A norm of batches
behind a row-cut convolution belongs to it, as pnnx folds it in.

Invariant: a part reads one value and its own weights, and what is inside it nobody else reads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mpsplit.errors import PlanError
from mpsplit.export.stages.captured import Capture
from mpsplit.export.stages.counting import module_of
from mpsplit.package.stages.sharded_part import PAIR
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, Cut, Runs

aten = torch.ops.aten
LINEAR, NORM = aten.linear.default, aten.batch_norm.default
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default}
TURNS = {aten.t.default}
EACH = (
    "gelu relu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu mish softplus mul add sub div neg"
    " exp pow abs square clamp relu6"
)
EACH_NUMBER = {getattr(aten, name) for name in EACH.split()}  # operators that look at each number alone


@dataclass(frozen=True)
class Linear:
    """A linear or a 1x1 convolution: the attribute that is its weight, [rows, columns] where
    `rows_axis` is 0. `axis`: of its value, along which rows lie."""

    node: fx.Node
    module: str
    weight: fx.Node
    rows_axis: int
    axis: int
    rows: int
    columns: int

    @property
    def bias(self) -> fx.Node | None:
        return self.node.args[2] if len(self.node.args) > 2 else None


@dataclass(frozen=True)
class Part:
    """`nodes`: in order, by name. `cuts`: of each attribute, the axis along which a shard has some
    of it. `summed`: the linear whose outputs are added, and whose bias one shard has."""

    modules: tuple[str, ...]
    cut: str
    takes: str
    gives: str
    axis: int
    nodes: tuple[str, ...]
    cuts: dict[str, int]
    summed: str
    shards: tuple[Runs, ...]
    said: Cut
    flops: int


@dataclass(frozen=True)
class OwnGraph:
    """What is left of a stage for the rank that runs it."""

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def linears_of(capture: Capture) -> dict[str, list[Linear]]:
    """By module: all calls of each."""
    found: dict[str, list[Linear]] = {}
    for node in capture.graph.graph.nodes:
        if linear := _linear(node, capture):
            found.setdefault(linear.module, []).append(linear)
    return found


def sizes_of(linears: Mapping[str, Sequence[Linear]]) -> dict[str, tuple[int, int]]:
    return {module: (calls[0].rows, calls[0].columns) for module, calls in linears.items()}


def _linear(node: fx.Node, capture: Capture) -> Linear | None:
    if node.target is LINEAR:
        weight, turned = node.args[1], False
        if weight.target in TURNS:
            weight, turned = weight.args[0], True
        axis = node.meta["val"].dim() - 1
    elif node.target in CONVOLUTIONS and _is_one_by_one(node):
        weight, turned, axis = node.args[1], False, 1
    else:
        return None
    bias = node.args[2] if len(node.args) > 2 else None
    if any(attribute.name not in capture.weights for attribute in (weight, bias) if attribute is not None):
        return None
    rows, columns = weight.meta["val"].shape[:2][:: -1 if turned else 1]
    return Linear(node, module_of(node), weight, int(turned), axis, int(rows), int(columns))


def _is_one_by_one(node: fx.Node) -> bool:
    usual: list[Any] = [None, None, None, 1, 0, 1, 1]
    everything = list(node.args) + usual[len(node.args) :]
    given, weight, padding, groups = (everything[place] for place in (0, 1, 4, 6))
    padded = any(padding) if isinstance(padding, list) else bool(padding)
    batched = given.meta["val"].dim() == weight.meta["val"].dim()
    return batched and groups == 1 and not padded and math.prod(weight.meta["val"].shape[2:]) == 1


class _Finding:
    def __init__(self, capture: Capture, inside: Collection[str], cuts: Mapping[str, Cut], flops: Mapping[str, int]):
        self.capture, self.inside, self.cuts, self.flops = capture, inside, cuts, flops
        self.linears = {
            linear.node: linear
            for calls in linears_of(capture).values()
            for linear in calls
            if linear.module in cuts and linear.node.name in inside
        }

    def parts(self) -> list[Part]:
        parts: list[Part] = []
        paired: set[fx.Node] = set()
        for linear in self.linears.values():
            if self._along(linear) == COLUMNS:
                parts.append(self._pair(linear) or self._part(linear, [linear.node], COLUMNS, [linear]))
                paired |= {node for node in self.linears if node.name in parts[-1].nodes}
        for linear in self.linears.values():
            if linear.node not in paired:
                parts.append(self._part(linear, self._with_norm(linear), ROWS, [linear]))
        order = {node.name: place for place, node in enumerate(self.capture.graph.graph.nodes)}
        return sorted(parts, key=lambda part: order[part.gives])

    def _along(self, linear: Linear) -> str:
        return self.cuts[linear.module].along

    def _pair(self, linear: Linear) -> Part | None:
        """With the row-cut linears before it, where there is nothing else between."""
        cone: dict[fx.Node, None] = {}
        first: dict[fx.Node, Linear] = {}
        waiting = [linear.node.args[0]]
        while waiting:
            node = waiting.pop()
            if node in cone:
                continue
            cone[node] = None
            before = self.linears.get(node)
            if before and self._along(before) == ROWS and self._same(before, linear):
                first[node] = before
            elif node.name in self.inside and self._each_number(node, linear.axis):
                waiting += [given for given in node.all_input_nodes if given.op != "get_attr"]
            else:
                return None
        everything = {*cone, linear.node}
        if any(user not in everything for node in cone for user in node.users):
            return None
        if len({node.args[0] for node in first}) != 1:
            return None
        order = [node for node in self.capture.graph.graph.nodes if node in everything]
        leading = [first[node] for node in order if node in first]
        return self._part(leading[0], order, PAIR, [*leading, linear])

    def _same(self, before: Linear, linear: Linear) -> bool:
        return self.cuts[before.module].shards == self.cuts[linear.module].shards and before.axis == linear.axis

    def _each_number(self, node: fx.Node, axis: int) -> bool:
        if node.target is NORM:
            return self._is_norm_of_rows(node, axis)
        packet = getattr(node.target, "overloadpacket", None)
        same = all(given.meta["val"].shape == node.meta["val"].shape for given in node.all_input_nodes)
        return packet in EACH_NUMBER and same and bool(node.all_input_nodes)

    def _is_norm_of_rows(self, node: fx.Node, axis: int) -> bool:
        numbers = [given for given in node.args[1:5] if given is not None]
        return axis == 1 and all(given.name in self.capture.weights for given in numbers)

    def _with_norm(self, linear: Linear) -> list[fx.Node]:
        users = list(linear.node.users)
        norms = [user for user in users if user.target is NORM and user.args[0] is linear.node]
        if users == norms[:1] and norms[0].name in self.inside and self._is_norm_of_rows(norms[0], linear.axis):
            return [linear.node, norms[0]]
        return [linear.node]

    def _part(self, first: Linear, nodes: Sequence[fx.Node], cut: str, linears: Sequence[Linear]) -> Part:
        """`first`: reads the part's input; the last node gives its value."""
        takes, wish = first.node.args[0], self.cuts[first.module]
        if takes.op == "get_attr" or takes.name in self.capture.made:
            raise PlanError(f"{wish.said}: {first.module} is given {takes.name}, which no input changes; leave it out")
        last = linears[-1] if cut != ROWS else None
        cuts: dict[str, int] = {}
        for linear in linears:
            cuts[linear.weight.name] = linear.rows_axis if linear is not last else 1 - linear.rows_axis
            if linear.bias is not None and linear is not last:
                cuts[linear.bias.name] = 0
        for node in nodes:
            if node.target is NORM:
                cuts |= {given.name: 0 for given in node.args[1:5] if given is not None}
        turns = [linear.node.args[1].name for linear in linears if linear.node.args[1] is not linear.weight]
        return Part(
            modules=tuple(linear.module for linear in linears),
            cut=cut,
            takes=takes.name,
            gives=nodes[-1].name,
            axis=first.axis,
            nodes=(*turns, *(node.name for node in nodes)),
            cuts=cuts,
            summed=last.node.name if last else "",
            shards=wish.shards,
            said=wish,
            flops=sum(self.flops[node.name] for node in nodes),
        )


def parts_of(
    capture: Capture, nodes: Sequence[str], cuts: Mapping[str, Cut], flops: Mapping[str, int]
) -> tuple[Part, ...]:
    """Of the stage that has these nodes."""
    return tuple(_Finding(capture, set(nodes), cuts, flops).parts()) if cuts else ()


def own_graph(
    capture: Capture, nodes: Sequence[str], inputs: Sequence[str], made: Sequence[str], outputs: Sequence[str],
    parts: Sequence[Part],
) -> OwnGraph:  # fmt: skip
    """What a stage's rank computes itself, between and around the parts."""
    inside, given = set(nodes), [part.gives for part in parts]
    wanted = [name for name in (*outputs, *(part.takes for part in parts)) if name in inside and name not in given]
    by_name = {node.name: node for node in capture.graph.graph.nodes}
    needed: set[str] = set()
    read: set[str] = set()
    waiting: list[Any] = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        for source in _sources(by_name[name]):
            read.add(source)
            if source in inside and source not in given:
                waiting.append(source)
    taken = tuple(name for name in (*inputs, *given, *made) if name in read)
    return OwnGraph(tuple(name for name in nodes if name in needed), taken, tuple(dict.fromkeys(wanted)))


def _sources(node: fx.Node) -> Iterable[str]:
    return (given.name for given in node.all_input_nodes)
