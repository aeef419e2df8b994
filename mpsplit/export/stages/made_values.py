"""What follows from the length alone, and is made where it is read: masks, positions, tables.

In: the captured graph. Out: the same, where such values are constants, or placeholders of a Made.

Each is computed for two lengths and looked at. A mask that hides nothing goes. One that hides the
future is `causal`, whole numbers that count are `positions`; what is the beginning of a longer one
is a `table`.

Invariant: nothing of this travels between stages: each makes its own from the length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mpsplit.errors import ConvertError

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
CHOICES = (aten.where.self, aten.where.ScalarOther)  # of a condition, a value, and another one
MASK, CAUSAL, SCALE = 3, 5, "scale"  # arguments of SDPA
CAUSAL_KIND, POSITIONS, TABLE = "causal", "positions", "table"
SHORT, LONG = 7, 11  # lengths to try
HIDDEN = -1e9  # what a mask adds to the scores of what is not seen: below it, e^x is 0


@dataclass(frozen=True)
class Made:
    """`offset`: the first position, `axis`: along which they count. `table`: of the largest length
    there is, whose beginning is the value."""

    kind: str
    offset: int = 0
    axis: int = 0
    table: torch.Tensor | None = None


def with_made_values(module: fx.GraphModule, weights: set[str], longest: int) -> tuple[fx.GraphModule, dict[str, Made]]:
    """`weights`: nodes that nobody knows the value of; `longest`: how long a text may get, 0 where
    nothing grows."""
    graph = module.graph
    made: dict[str, Made] = {}
    free = _free_of_data(graph, weights)
    for node in graph.find_nodes(op="call_function", target=SDPA):
        _one_mask(node, free)
    for node in list(graph.nodes):
        if node.target in CHOICES and node.args[0] in free and _hides_nothing(module, node.args[0]):
            node.replace_all_uses_with(node.args[1])
    graph.eliminate_dead_code()
    free = _free_of_data(graph, weights)
    border = [node for node in graph.nodes if node in free and any(user not in free for user in node.users)]
    for node in border:
        if isinstance(node.meta.get("val"), torch.Tensor) and node.op == "call_function":
            _replace(module, node, longest, made)
    for node in graph.find_nodes(op="call_function", target=SDPA):
        if _argument(node, CAUSAL, "is_causal"):
            _make_causal(graph, node, made)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module, made


def _free_of_data(graph: fx.Graph, weights: set[str]) -> set[fx.Node]:
    """Nodes that depend on the length at most."""
    free: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            known = node.name not in weights
        elif node.op == "call_function":
            known = node.target is aten.sym_size.int or all(given in free for given in node.all_input_nodes)
        else:
            known = False
        if known:
            free.add(node)
    return free


def value_of(module: fx.GraphModule, node: fx.Node, length: int) -> Any:
    """Of a node that is free of data, at this length."""
    known: dict[fx.Node, Any] = {}
    wanted = [node]
    while wanted:
        at = wanted[-1]
        missing = [given for given in at.all_input_nodes if given not in known and at.target is not aten.sym_size.int]
        if missing:
            wanted += missing
            continue
        wanted.pop()
        if at.op == "get_attr":
            known[at] = getattr(module, str(at.target))
        elif at.target is aten.sym_size.int:
            known[at] = length
        else:
            args, kwargs = fx.node.map_arg((at.args, at.kwargs), known.__getitem__)
            known[at] = at.target(*args, **kwargs)
    return known[node]


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else None)


def _attention(node: fx.Node, mask: fx.Node | None) -> None:
    """The same attention with this mask and no other."""
    node.args = (*node.args[:MASK], mask)
    node.kwargs = {name: value for name, value in node.kwargs.items() if name in (SCALE, "enable_gqa")}


def _one_mask(node: fx.Node, free: set[fx.Node]) -> None:
    """A mask of an SDPA that hides nothing goes; one that hides the future becomes is_causal."""
    mask = _argument(node, MASK, "attn_mask")
    if not isinstance(mask, fx.Node) or mask not in free:
        return
    module = node.graph.owning_module
    seen = [value_of(module, mask, length) for length in (SHORT, LONG)]
    if any(value.dtype != torch.bool for value in seen):
        return
    if all(value.all() for value in seen):
        _attention(node, None)
    elif all(_is_causal(value) for value in seen):
        _attention(node, None)
        node.kwargs = {**node.kwargs, "is_causal": True}


def _hides_nothing(module: fx.GraphModule, mask: fx.Node) -> bool:
    return all(bool(value_of(module, mask, length).all()) for length in (SHORT, LONG))


def _is_causal(seen: torch.Tensor) -> bool:
    rows, columns = seen.shape[-2:]
    return rows == columns and bool((seen == torch.ones(rows, columns, dtype=torch.bool).tril()).all())


def _make_causal(graph: fx.Graph, node: fx.Node, made: dict[str, Made]) -> None:
    if CAUSAL_KIND not in made:
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            mask = graph.placeholder(CAUSAL_KIND)
        length = node.args[0].meta["val"].shape[-2]
        mask.meta["val"] = node.args[0].meta["val"].new_empty(length, length)
        made[CAUSAL_KIND] = Made(CAUSAL_KIND)
    _attention(node, next(n for n in graph.nodes if n.name == CAUSAL_KIND))


def _replace(module: fx.GraphModule, node: fx.Node, longest: int, made: dict[str, Made]) -> None:
    shape = node.meta["val"].shape
    graph = node.graph
    if all(isinstance(size, int) for size in shape):
        name = f"folded_{node.name}"
        module.register_buffer(name, value_of(module, node, SHORT).contiguous())
        with graph.inserting_before(node):
            new = graph.get_attr(name)
        new.meta["val"] = node.meta["val"]
    else:
        found = _kind_of(module, node, longest)
        same = [name for name, other in made.items() if _same(found, other)]
        if same:
            node.replace_all_uses_with(next(other for other in graph.nodes if other.name == same[0]))
            return
        name = f"{found.kind}_{len(made)}"
        with graph.inserting_before(next(iter(graph.nodes))):
            new = graph.placeholder(name)
        new.meta["val"] = node.meta["val"]
        made[new.name] = found
    node.replace_all_uses_with(new)


def _same(a: Made, b: Made) -> bool:
    if (a.kind, a.offset, a.axis) != (b.kind, b.offset, b.axis):
        return False
    return a.kind == TABLE and a.table is not None and b.table is not None and torch.equal(a.table, b.table)


def _kind_of(module: fx.GraphModule, node: fx.Node, longest: int) -> Made:
    short, long = (value_of(module, node, n) for n in (SHORT, LONG))
    grown = [axis for axis, (a, b) in enumerate(zip(short.shape, long.shape, strict=True)) if a != b]
    place = list((node.meta.get("nn_module_stack") or {"": ("the model",)}).values())[-1][0]
    if not torch.equal(long[tuple(slice(size) for size in short.shape)], short):
        raise ConvertError(
            f"{place or 'the model'} computes {node.name} of the length alone, and that of {list(short.shape)} is not"
            f" the beginning of that of {list(long.shape)}; fix the length with --length N"
        )
    if len(grown) == 1 and not short.is_floating_point():
        counted = torch.arange(short.shape[grown[0]]).reshape([-1 if i == grown[0] else 1 for i in range(short.dim())])
        if torch.equal(short - short.flatten()[0], counted.expand_as(short)):
            return Made(POSITIONS, offset=int(short.flatten()[0]), axis=grown[0])
    return Made(TABLE, table=value_of(module, node, longest).contiguous())
