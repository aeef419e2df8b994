"""The captured graph without what does not compute.

In: a GraphModule of ATen operators. Out: the same with fewer kinds of operators.

Invariant: the values are the same. Only what training or checking needs goes: dropout, assertions,
copies; what writes over its input becomes what makes a new value. What pnnx or ncnn know under one
name only is written so.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from mpsplit.errors import ConvertError

aten = torch.ops.aten
SAME = {  # operators that give back their first argument
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.feature_dropout.default,
    aten.dropout.default,
}
ASSERTIONS = {aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg}
SAME_TYPE = {aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten._to_copy.default, aten.type_as.default}


def clean(module: fx.GraphModule) -> fx.GraphModule:
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in ASSERTIONS or (not node.users and "assert" in str(node.target)):
            graph.erase_node(node)
        elif node.target in SAME or node.target in SAME_TYPE and _has_its_type(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif _writes_over(node):
            _make_new(node)
    graph.eliminate_dead_code()
    for rewrite in (_gelu_of_tanh, _power, _linear, _shared_heads, _same_ids, _first_of_token):
        for node in list(graph.nodes):
            if node.op == "call_function" and node.users:
                with graph.inserting_before(node):
                    rewrite(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _has_its_type(node: fx.Node) -> bool:
    return node.meta["val"].dtype == node.args[0].meta["val"].dtype


def _writes_over(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _make_new(node: fx.Node) -> None:
    """add_ becomes add, where nobody reads what was there before."""
    written = node.args[0]
    after = list(node.graph.nodes)
    later = {user for user in written.users if user is not node and after.index(user) > after.index(node)}
    name = node.target._schema.name.removeprefix("aten::").removesuffix("_")
    packet = getattr(aten, name, None)
    overload = getattr(packet, node.target._overloadname, None) if packet else None
    if overload is None or overload._schema.is_mutable or later:
        place = list((node.meta.get("nn_module_stack") or {"": ("the model",)}).values())[-1][0]
        raise ConvertError(f"{place or 'the model'} writes over a value with {node.target}; stages cannot be cut there")
    node.target = overload


def _replaced(node: fx.Node, target: Any, args: tuple, kwargs: dict | None = None) -> fx.Node:
    """A new node takes the place of one, of the same shape and module."""
    new = node.graph.call_function(target, args, kwargs or {})
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    return new


def _is(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.target in targets


def _number_and(node: Any, target: Any) -> tuple[float, fx.Node] | None:
    """Of an operator with a number and a node."""
    if not _is(node, target):
        return None
    numbers = [given for given in node.args if isinstance(given, int | float)]
    nodes = [given for given in node.args if isinstance(given, fx.Node)]
    return (float(numbers[0]), nodes[0]) if len(numbers) == len(nodes) == 1 else None


def _gelu_of_tanh(node: fx.Node) -> None:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as GPT-2 spells its GELU."""
    if not _is(node, aten.mul.Tensor) or len(node.args) != 2:
        return
    for half, rest in (node.args, node.args[::-1]):
        halved, one = _number_and(half, aten.mul.Tensor), _number_and(rest, aten.add.Tensor)
        if not halved or not one or (halved[0], one[0]) != (0.5, 1.0) or not _is(one[1], aten.tanh.default):
            continue
        scaled = _number_and(one[1].args[0], aten.mul.Tensor)
        if not scaled or abs(scaled[0] - math.sqrt(2 / math.pi)) > 1e-6 or not _is(scaled[1], aten.add.Tensor):
            continue
        x, cubed = halved[1], [_number_and(given, aten.mul.Tensor) for given in scaled[1].args]
        powers = [found[1] for found in cubed if found and abs(found[0] - 0.044715) < 1e-9]
        if x in scaled[1].args and powers and _is(powers[0], aten.pow.Tensor_Scalar) and powers[0].args == (x, 3.0):
            _replaced(node, aten.gelu.default, (x,), {"approximate": "tanh"})
            return


def _power(node: fx.Node) -> None:
    """x^3 as products: ncnn's powers are logarithms, which negative numbers have not."""
    if _is(node, aten.pow.Tensor_Scalar) and node.args[1] == 3:
        x = node.args[0]
        square = node.graph.call_function(aten.mul.Tensor, (x, x))
        square.meta = dict(node.meta)
        _replaced(node, aten.mul.Tensor, (square, x))


def _shared_heads(node: fx.Node) -> None:
    """Attention takes keys and values of fewer heads as they are, not written out for each head."""
    if not _is(node, aten.scaled_dot_product_attention.default):
        return
    given = [_written_out(node.args[place]) for place in (1, 2)]
    if all(given):
        node.args = (node.args[0], *given, *node.args[3:])
        node.kwargs = {**node.kwargs, "enable_gqa": True}


def _written_out(node: fx.Node) -> fx.Node | None:
    """x [1, heads, length, dim] behind reshape(expand(unsqueeze(x, 2))); the expand may come after
    a slice of everything."""
    if not _is(node, aten.reshape.default, aten.view.default):
        return None
    at = node.args[0]
    while _is(at, aten.slice.Tensor, aten.expand.default):
        at = at.args[0]
    if not _is(at, aten.unsqueeze.default) or at.args[1] != 2 or node.args[0] is at:
        return None
    return at.args[0]


def _linear(node: fx.Node) -> None:
    """view(addmm(bias, view(x, [-1, k]), weight), [.., n]) is a linear, its weight turned."""
    if not _is(node, aten.view.default) or not _is(node.args[0], aten.addmm.default) or node.args[0].kwargs:
        return
    bias, flat, weight = node.args[0].args
    if not _is(flat, aten.view.default) or weight.op != "get_attr":
        return
    x = flat.args[0]
    given, made = x.meta["val"].shape, node.meta["val"].shape
    if len(given) != len(made) or any(str(a) != str(b) for a, b in zip(given[:-1], made[:-1], strict=True)):
        return
    turned = node.graph.call_function(aten.t.default, (weight,))
    turned.meta = {**node.meta, "val": weight.meta["val"].t()}
    _replaced(node, aten.linear.default, (x, turned, bias))


def _same_ids(node: fx.Node) -> None:
    """Token ids in the shape that they have: stages take them from the model's inputs alone."""
    if _is(node, aten.view.default, aten.reshape.default) and not node.meta["val"].is_floating_point():
        given = node.args[0].meta["val"].shape
        if [str(size) for size in given] == [str(size) for size in node.meta["val"].shape]:
            node.replace_all_uses_with(node.args[0])


def _first_of_token(node: fx.Node) -> None:
    """states[0, argmax(ids == token)], as CLIP finds the end of a text: ncnn has neither. A table
    says which ids are the token; of the first of them, its running sum is 1. Without any it is the
    first state."""
    if not _is(node, aten.index.Tensor) or len(node.args[1]) != 2 or not _is(node.args[1][1], aten.argmax.default):
        return
    states, same = node.args[0], node.args[1][1].args[0]
    same = same.args[0] if _is(same, *SAME_TYPE) else same
    if not _is(same, aten.eq.Scalar) or len(states.meta["val"].shape) != 3:
        return
    ids, token = same.args
    ids = ids.args[0] if _is(ids, *SAME_TYPE) else ids
    tables = [user for user in ids.users if _is(user, aten.embedding.default) and user.args[1] is ids]
    if not tables:
        return
    graph, value, module = node.graph, states.meta["val"], node.graph.owning_module
    name = f"token_{token}"
    module.register_buffer(name, (torch.arange(len(tables[0].args[0].meta["val"])) == token).float()[:, None])

    def made(target: Any, args: tuple, like: torch.Tensor) -> fx.Node:
        new = graph.call_function(target, args)
        new.meta = {**node.meta, "val": like}
        return new

    table = graph.get_attr(name)
    table.meta = {**node.meta, "val": getattr(module, name)}
    found = made(aten.embedding.default, (table, ids), value[..., :1])
    count = made(aten.cumsum.default, (found, 1), value[..., :1])
    first = made(aten.relu.default, (made(aten.rsub.Scalar, (count, 2), value[..., :1]),), value[..., :1])
    first = made(aten.mul.Tensor, (found, first), value[..., :1])
    turned = made(aten.transpose.int, (first, 1, 2), value[..., :1].transpose(1, 2))
    picked = made(aten.matmul.default, (turned, states), value[:, :1])
    total = made(aten.sum.dim_IntList, (found, [1], True), value[:, :1, :1])
    none = made(aten.relu.default, (made(aten.rsub.Scalar, (total, 1), value[:, :1, :1]),), value[:, :1, :1])
    start = made(aten.mul.Tensor, (made(aten.slice.Tensor, (states, 1, 0, 1), value[:, :1]), none), value[:, :1])
    either = made(aten.add.Tensor, (picked, start), value[:, :1])
    _replaced(node, aten.view.default, (either, [1, value.shape[-1]]))


def with_flat_rows(module: fx.GraphModule) -> fx.GraphModule:
    """Rows of an embedding by indices of several axes, such as T5's positions: ncnn knows one."""
    for node in module.graph.find_nodes(op="call_function", target=aten.embedding.default):
        with module.graph.inserting_before(node):
            _flat_rows(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _flat_rows(node: fx.Node) -> None:
    index = node.args[1]
    sizes = list(index.meta["val"].shape)
    while sizes and isinstance(sizes[0], int) and sizes[0] == 1:
        sizes.pop(0)
    if len(sizes) < 2:
        return
    graph, value = node.graph, node.meta["val"]
    flat = graph.call_function(aten.view.default, (index, [-1]))
    flat.meta = {**node.meta, "val": index.meta["val"].reshape(-1)}
    rows = graph.call_function(aten.embedding.default, (node.args[0], flat, *node.args[2:]), node.kwargs)
    rows.meta = {**node.meta, "val": value.reshape(-1, value.shape[-1])}
    shape: list[Any] = []
    for axis, size in enumerate(value.shape):
        if not isinstance(size, int):
            wanted = size
            size = graph.call_function(aten.sym_size.int, (index, axis))
            size.meta = {**node.meta, "val": wanted}
        shape.append(size)
    _replaced(node, aten.view.default, (rows, shape))
