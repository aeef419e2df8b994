"""A rank's graph in parts, each a program of its own: cut where ranks talk and where layers end.

In: the graph of a stage, its example. Out: Cuts in the order in which they are computed.

Every attention takes the keys and values of what came before and gives them back with its own
behind, so a cache goes in and out. Invariant: what was traced is what is computed; parts of equal
layers are equal but for their weights.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from mpsplit.errors import ConvertError
from mpsplit.export.trace.operators import collective_of
from mpsplit.export.trace.slicing import place
from mpsplit.export.trace.trace_inputs import Example
from mpsplit.package.collectives import Call
from mpsplit.package.stored.parts_json import LOGITS

LAYER = re.compile(r"\.layers\.(\d+)(\.|$)")
Shape = tuple[int | str, ...]  # a text where the size is free


@dataclass(frozen=True)
class Cut:
    """`module` is None where ranks talk: there `call` says how. `shapes`: of what it takes and then
    of the keys and values of `attentions`, which are numbers among those of the rank."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    call: Call | None = None
    module: nn.Module | None = None
    shapes: tuple[Shape, ...] = ()
    attentions: tuple[int, ...] = ()


def cached_attention(query, key, value, past_key, past_value, mask, scale=None):
    """[1, heads, length, head_dim], KV heads fewer; mask [length, past + length]. Also keys and
    values, whose past is longer by them. No head of K or V is expanded."""
    keys, values = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    heads, length, size = query.shape[1:]
    groups, total = keys.shape[1], keys.shape[2]
    scores = query.reshape(groups, -1, size) @ keys[0].transpose(1, 2)  # [KV heads, of each * length, total]
    scores = scores * (size**-0.5 if scale is None else scale)
    scores = scores.reshape(groups, heads // groups, length, total) + mask[None, None]
    out = scores.softmax(-1).reshape(groups, -1, total) @ values[0]
    return out.reshape(1, heads, length, size), keys, values


def parts_of(graph_module: fx.GraphModule, example: Example) -> list[Cut]:
    """`graph_module`: as capture.py made it of this example, without symbols."""
    return list(_Cutting(graph_module, example).cuts())


class _Cutting:
    def __init__(self, graph_module: fx.GraphModule, example: Example):
        self.root, self.graph, self.example = graph_module, graph_module.graph, example
        self.inputs = example.shapes()
        self.length = next((node for node in self.graph.nodes if _is_length(node)), None)
        [end] = self.graph.find_nodes(op="output")
        results = end.all_input_nodes
        self.logits = results[1] if len(results) > 1 else None
        self.attentions = 0

    def cuts(self) -> Iterator[Cut]:
        for nodes in self._segments():
            if (operator_name := collective_of(nodes[0].target)) is not None:
                [node] = nodes
                yield Cut((self._name(node.args[0]),), (self._name(node),), Call(operator_name, tuple(node.args[1:])))
            else:
                yield self._part(nodes)

    def _segments(self) -> list[list[fx.Node]]:
        segments: list[list[fx.Node]] = []
        last: object = None
        for node in self.graph.nodes:
            if not node.op.startswith("call") or node is self.length:
                continue
            here = node if collective_of(node.target) else _layer_of(node)
            if not segments or here != last:
                segments.append([])
            segments[-1].append(node)
            last = here
        for i in reversed(range(len(segments) - 1)):  # what has no weights, as a sum, is no part of its own
            if not any(map(_talks_or_reads, segments[i])) and not collective_of(segments[i + 1][0].target):
                segments[i : i + 2] = [segments[i] + segments[i + 1]]
        return segments

    def _name(self, node: fx.Node) -> str:
        if node is self.logits:
            return LOGITS
        return f"{node.name}_before" if node.name == LOGITS else node.name

    def _part(self, nodes: Sequence[fx.Node]) -> Cut:
        inside = set(nodes)
        read = dict.fromkeys(given for node in nodes for given in node.all_input_nodes if given not in inside)
        takes = [node for node in read if node.op != "get_attr" and node is not self.length]
        gives = [
            node
            for node in nodes
            if node is self.logits or any(user.op != "output" for user in set(node.users) - inside)
        ]
        attentions = [node for node in nodes if node.target is F.scaled_dot_product_attention]

        root, graph = nn.Module(), fx.Graph()
        # not their own names, by whose order torch.export takes a size from one or from another
        mapped = {node: graph.placeholder(f"given{i}") for i, node in enumerate(takes)}
        past = [graph.placeholder(f"past_{kind}{i}") for i in range(len(attentions)) for kind in "kv"]
        shapes = [self._shape(node) for node in takes]
        if self.length in read:
            number, axis = next((i, shape.index("length")) for i, shape in enumerate(shapes) if "length" in shape)
            mapped[self.length] = graph.call_method("size", (mapped[takes[number]], axis))
        for node in read:
            if node.op == "get_attr":
                place(root, node.target, self.root.get_parameter(node.target))
                mapped[node] = graph.get_attr(node.target)
        now: list[fx.Node] = []
        for node in nodes:
            if node not in attentions:
                mapped[node] = graph.node_copy(node, mapped.__getitem__)
                continue
            before = past[len(now) : len(now) + 2]
            query, key, value, mask, scale = (mapped.get(given, given) for given in _attended(node))
            found = graph.call_function(cached_attention, (query, key, value, *before, mask, scale))
            mapped[node], *more = (graph.call_function(operator.getitem, (found, i)) for i in range(3))
            now += more
            shapes += [self._past(node.args[1]), self._past(node.args[2])]
        graph.output((*(mapped[node] for node in gives), *now))
        numbers = range(self.attentions, self.attentions + len(attentions))
        self.attentions = numbers.stop
        taken, given = (tuple(map(self._name, nodes)) for nodes in (takes, gives))
        return Cut(taken, given, None, fx.GraphModule(root, graph), tuple(shapes), tuple(numbers))

    def _sizes(self, node: fx.Node) -> tuple[int, ...]:
        return self.inputs[node.name] if node.op == "placeholder" else tuple(node.meta["example_value"].shape)

    def _shape(self, node: fx.Node) -> Shape:
        if node.name == "mask":
            if any(user.target is not F.scaled_dot_product_attention for user in node.users):
                raise ConvertError(
                    "more than attention reads the mask, which no part of IREE does; use --compiler ncnn"
                )
            return "length", "total"
        return tuple("length" if size == self.example.length else size for size in self._sizes(node))

    def _past(self, node: fx.Node) -> Shape:
        """Of keys or values [1, KV heads, length, head_dim]."""
        one, heads, _, size = self._sizes(node)
        return one, heads, "past", size


def _is_length(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "size"


def _talks_or_reads(node: fx.Node) -> bool:
    """Whether it is a collective or reads a weight."""
    return bool(collective_of(node.target)) or any(given.op == "get_attr" for given in node.all_input_nodes)


def _layer_of(node: fx.Node) -> str | None:
    """The number of its layer; None before and behind them."""
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    found = [match[1] for path in paths if (match := LAYER.search(path))]
    return found[0] if found else None


def _attended(node: fx.Node) -> tuple[object, ...]:
    """Query, key, value, mask and scale of an attention."""
    return *node.args[:3], node.kwargs["attn_mask"], node.kwargs.get("scale")
