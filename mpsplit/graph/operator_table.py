"""The operators, once for everybody: the builder, the text, the shape rules and the view of an
engine's graph all read this table.

A line says what an operator reads, which layer of ncnn it is, and its attributes with the ids of
that layer's parameters. The shape rules are those that package/checked/layer_shapes.py has for the
layer. Collectives have the names and arguments of package/collectives.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

from mpsplit.errors import GraphError
from mpsplit.graph.linear_layers import linear_layer
from mpsplit.graph.operator_kind import ANY, IN_PLACE, NO_RANK, OF_ROWS, SAME, Attribute, Axes, Operator, Said, Types
from mpsplit.package.checked.layer_shapes import ALL, ANSWERS, HEADS, JOINED, PAST, ROWS, RankSizes
from mpsplit.package.collectives import COLLECTIVES, STAGE, WORLD
from mpsplit.package.param_text import Layer
from mpsplit.package.stored.quantisation import GEMM, LAYER
from mpsplit.plan.shards import Range

OF_HEADS: tuple[Axes, ...] = ((None, ROWS, None),)
OF_PAST: tuple[Axes, ...] = ((None, PAST, None),)
ROWS_OF_HEADS: tuple[Axes, ...] = ((ROWS, None, None),)
ROWS_OR_HEADS = OF_ROWS + ROWS_OF_HEADS  # a row's heads beside each other, or one after the other
PICK = "wanted_rows"


def whole(types: Types, value: int, axis: int) -> int:
    """A size that must be a number."""
    shape = types[value].shape
    if not -len(shape) <= axis < len(shape) or (number := shape[axis].number) is None:
        raise GraphError(f"{types[value]} has no number where one is needed")
    return number


def _heads(types: Types, said: Said) -> dict[str, str]:
    columns, heads = whole(types, 0, -1), int(said["heads"])
    if heads < 1 or columns % heads:
        raise GraphError(f"{columns} columns do not divide into {heads} heads")
    return {"6": f'"{columns // heads},{heads},0h"'}


def _of_heads(layer: Layer) -> Said | None:
    found = HEADS.fullmatch(layer.params.get("6", ""))
    return {"heads": int(found[2])} if found else None


def _joined(types: Types, said: Said) -> dict[str, str]:
    return {"6": f'"{math.prod(whole(types, 0, axis) for axis in (-1, -2))},0c"'}


def _of_joined(layer: Layer) -> Said | None:
    return {} if JOINED.fullmatch(layer.params.get("6", "")) else None


def _one_row(types: Types, said: Said) -> dict[str, str]:
    return {"0": str(whole(types, 0, -1)), "1": "1"}


def _of_one_row(layer: Layer) -> Said | None:
    return {} if layer.params.keys() == {"0", "1"} else None


def _norm(types: Types, said: Said) -> dict[str, str]:
    weights = types[1:]
    if len(weights) != 1 or len(weights[0].shape) != 1 or weights[0].element != "f32":
        raise GraphError("it takes one weight, a row of f32")
    return {"0": str(whole(weights, 0, 0))}


def _plain_linear(layer: Layer) -> Said | None:
    return {} if layer.type == GEMM or not {layer.params.get("7"), layer.params.get("8")} & {"1"} else None


def _attention(types: Types, said: Said) -> RankSizes:
    heads, kv_heads, dim = (int(said[name]) for name in ("heads", "kv_heads", "head_dim"))
    return replace(NO_RANK, heads=heads, kv_heads=kv_heads, head_dim=dim, angles=dim // 2)


def _sdpa(types: Types, said: Said) -> RankSizes:
    heads, kv_heads, head_dim = whole(types, 0, 0), whole(types, 1, 0), whole(types, 0, 2)
    return replace(NO_RANK, heads=heads, kv_heads=kv_heads, head_dim=head_dim)


def _rotary(types: Types, said: Said) -> RankSizes:
    return replace(NO_RANK, head_dim=whole(types, 0, -1), angles=whole(types, 1, -1))


def _group(types: Types, said: Said) -> RankSizes:
    """A graph does not say how many ranks a group has: as many as it speaks of."""
    ranks = int(max(said.get("size", 1), *(1 + said.get(name, 0) for name in ("root", "peer"))))
    return replace(NO_RANK, groups={WORLD: ranks, STAGE: ranks})


def _head(types: Types, said: Said) -> RankSizes:
    first = int(said.get("first", 0))
    return replace(NO_RANK, head=Range(first, first + whole(types, 0, -1)))


def _of_two_blobs(layer: Layer) -> Said | None:
    return {} if layer.params.get("1", "0") == "0" else None


def _of_two(meaning: str, id: str) -> dict[str, Operator]:
    """Of two values, and of one and a number."""
    name = meaning.split()[0]
    return {
        name: Operator(meaning, {"a": ANY, "b": ANY}, ("BinaryOp",), fixed={"0": id}, lift=_of_two_blobs),
        f"{name}_number": Operator(
            f"{meaning}, the second a number", {"a": ANY}, ("BinaryOp",),
            attributes={"number": Attribute("2", float, True)}, fixed={"0": id, "1": "1"}, bytes=IN_PLACE,
        ),
    }  # fmt: skip


OPERATORS: dict[str, Operator] = {
    "linear": Operator(
        "products of a value with matrices [n, k], each with its bias after it or without",
        {"x": OF_ROWS}, (LAYER, GEMM), "matrices", special=linear_layer, lift=_plain_linear,
    ),
    "gated_linear": Operator(
        "a product times the silu of another", {"x": OF_ROWS}, (LAYER,), "two matrices",
        fixed={"7": "1"}, special=linear_layer,
    ),
    "linear_add": Operator(
        "a product, added to a value", {"x": OF_ROWS, "to": OF_ROWS}, (LAYER,), "a matrix",
        fixed={"8": "1"}, special=linear_layer,
    ),
    "rms_norm": Operator(
        "each row divided by the root of its mean square, times a weight", {"x": ANY}, ("RMSNorm",), "a row",
        {"epsilon": Attribute("1", float, True)}, {"2": "1"}, parameters=_norm, bytes=IN_PLACE,
    ),
    "attention": Operator(
        "what the queries find in the cache, to which the keys and values are added",
        {"q": ROWS_OR_HEADS, "k": ROWS_OR_HEADS, "v": ROWS_OR_HEADS}, ("Attention",),
        attributes={"heads": Attribute("0"), "kv_heads": Attribute("1"), "head_dim": Attribute("2"),
                    "scale": Attribute("3", float, True)}, rank=_attention,
    ),
    "sdpa": Operator(
        "the same with the past of the cache as values; it makes the cache with the new rows too",
        {"q": OF_HEADS, "k": OF_HEADS, "v": OF_HEADS, "mask": ((ROWS, ALL),), "past_k": OF_PAST, "past_v": OF_PAST},
        ("SDPA",), attributes={"scale": Attribute("6", float, True)}, fixed={"5": "1", "7": "1"},
        made=("sdpa", "keys", "values"), rank=_sdpa,
    ),
    "rotary": Operator(
        "each pair of numbers of a head turned by its angle", {"x": OF_HEADS, "cos": OF_ROWS, "sin": OF_ROWS},
        ("RotaryEmbed",), fixed={"0": "0"}, rank=_rotary,
    ),
    "split_heads": Operator(
        "rows into heads", {"x": OF_ROWS}, ("Reshape",), attributes={"heads": Attribute("")},
        parameters=_heads, lift=_of_heads, bytes=SAME,
    ),
    "join_heads": Operator(
        "heads into rows", {"x": ROWS_OF_HEADS}, ("Reshape",), parameters=_joined, lift=_of_joined, bytes=SAME,
    ),
    "one_row": Operator(
        "a row as a matrix", {"x": ANY}, ("Reshape",), parameters=_one_row, lift=_of_one_row, bytes=SAME,
    ),
    "swap": Operator("the first two of three sizes change places", {"x": ANY}, ("Permute",), fixed={"0": "2"}),
    "silu": Operator("x times its sigmoid", {"x": ANY}, ("Swish",), bytes=IN_PLACE),
    **_of_two("add one to another", "0"),
    **_of_two("subtract the second from the first", "1"),
    **_of_two("multiply one by another", "2"),
    **_of_two("divide the first by the second", "3"),
    "top_k": Operator(
        "the largest of the logits, and which they are", {"logits": ((ANSWERS, None),)}, ("TopK",),
        attributes={"count": Attribute("0"), "first": Attribute("1", int, True)}, rank=_head,
    ),
    PICK: Operator("of the rows of a step those whose logits are wanted", {"x": OF_ROWS}),
    **{
        c.operator: Operator(
            f"the collective {c.operator}", {"x": OF_ROWS}, (c.layer,),
            attributes={name: Attribute(str(i)) for i, name in enumerate(c.arguments, 1)}, rank=_group,
            bytes="" if "size" in c.arguments else IN_PLACE,
        )
        for c in COLLECTIVES
    },
}  # fmt: skip
