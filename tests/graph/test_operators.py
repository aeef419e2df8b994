"""Each operator makes what its layer does, and refuses with names and numbers what does not fit."""

import pytest

from mpsplit.errors import GraphError
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.operator_table import OPERATORS
from mpsplit.graph.shape_rules import made_of
from mpsplit.graph.value_types import ValueType
from mpsplit.package.checked.layer_shapes import KINDS

PANEL = "q4x32[48, 64] panels"
MAKES = {
    "linear": [
        (["f32[rows, 64]", PANEL, PANEL, "f32[48]"], {}, ["f32[rows, 48]", "f32[rows, 48]"]),
        (["f32[7, 64]", "f32[10, 64]", "f32[10]"], {}, ["f32[7, 10]"]),
        (["f32[answers, 64]", "q8x32[10, 64] blocks"], {}, ["f32[answers, 10]"]),
    ],
    "gated_linear": [(["f32[length, 64]", PANEL, PANEL], {}, ["f32[length, 48]"])],
    "linear_add": [(["f32[rows, 64]", "f32[rows, 48]", PANEL, "f32[48]"], {}, ["f32[rows, 48]"])],
    "rms_norm": [
        (["f32[rows, 8]", "f32[8]"], {"epsilon": 1}, ["f32[rows, 8]"]),
        (["f32[rows, 4, 8]", "f32[8]"], {}, ["f32[rows, 4, 8]"]),
    ],
    "attention": [
        (["f32[n, 64]", "f32[n, 32]", "f32[n, 2, 16]"], {"heads": 4, "kv_heads": 2, "head_dim": 16}, ["f32[n, 64]"])
    ],
    "sdpa": [
        (
            ["f32[4, n, 16]", "f32[2, n, 16]", "f32[2, n, 16]", "f32[n, m+n]", "f32[2, m, 16]", "f32[2, m, 16]"],
            {},
            ["f32[4, n, 16]", "f32[2, m+n, 16]", "f32[2, m+n, 16]"],
        )
    ],
    "rotary": [(["f32[4, rows, 16]", "f32[rows, 8]", "f32[rows, 8]"], {}, ["f32[4, rows, 16]"])],
    "split_heads": [(["f32[rows, 64]"], {"heads": 4}, ["f32[rows, 4, 16]"])],
    "join_heads": [(["f32[rows, 4, 16]"], {}, ["f32[rows, 64]"])],
    "one_row": [(["f32[64]"], {}, ["f32[1, 64]"])],
    "swap": [(["f32[rows, 4, 16]"], {}, ["f32[4, rows, 16]"])],
    "silu": [(["f32[a, b, c]"], {}, ["f32[a, b, c]"])],
    "top_k": [(["f32[answers, 100]"], {"count": 64}, ["f32[2, 64]"]), (["f32[1, 10]"], {"count": 64}, ["f32[2, 10]"])],
    "wanted_rows": [(["f32[rows, 64]"], {}, ["f32[answers, 64]"])],
    "all_gather": [(["f32[rows, 64]"], {"group": 1, "size": 3}, ["f32[rows, 192]"])],
    "broadcast": [(["f32[rows, 64]"], {"group": 0, "root": 2}, ["f32[rows, 64]"])],
    **{name: [(["f32[rows, 64]"], {"group": 0, "peer": 1}, ["f32[rows, 64]"])] for name in ("send", "recv")},
    "all_reduce": [(["f32[rows, 64]"], {"group": 1}, ["f32[rows, 64]"])],
    **{name: [(["f32[rows, 8]", "f32[1, 8]"], {}, ["f32[rows, 8]"])] for name in ("add", "subtract")},
    **{name: [(["f32[a, b]", "f32[a, b]"], {}, ["f32[a, b]"])] for name in ("multiply", "divide")},
    **{
        f"{name}_number": [(["f32[a, b]"], {"number": -0.5}, ["f32[a, b]"])]
        for name in ("add", "subtract", "multiply", "divide")
    },
}


def types(texts):
    return [ValueType.parse(text) for text in texts]


@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_makes(name):
    for reads, said, makes in MAKES[name]:
        assert [str(type) for type in made_of(name, types(reads), said)] == makes
        operator = OPERATORS[name]
        if operator.layers:
            layer = operator.layer_of(types(reads), said)
            assert {other for other in OPERATORS if OPERATORS[other].said_of(layer) is not None} >= {name}
            assert operator.said_of(layer) == said


def test_every_layer_that_mpsplit_writes_is_an_operator():
    """But for what a graph says in other ways: inputs, weights, values with several readers."""
    layers = {layer for operator in OPERATORS.values() for layer in operator.layers}
    assert set(KINDS) - layers == {"Input", "MemoryData", "Split"}


@pytest.mark.parametrize(
    "name, reads, attributes, said",
    [
        ("linear", ["f32[rows, 96]", PANEL], {}, r"linear\(x f32\[rows, 96\], q4x32\[48, 64\] panels\): 64 inputs"),
        ("linear", ["f32[rows, 64]", "f32[48, 64]", PANEL], {}, r"f32\[48, 64\] lies in rows, it must lie in panels"),
        ("linear", ["f32[rows, 64]", PANEL, "f32[47]"], {}, r"f32\[47\] is not the bias of q4x32\[48, 64\] panels"),
        ("linear", ["f32[rows, 64]"], {}, "it has 0 matrices, it takes 1 to 3"),
        ("linear", ["f32[rows, 64]", "f16[48, 64]"], {}, "is no matrix of floats"),
        ("linear_add", ["f32[rows, 64]", "f32[answers, 48]", PANEL], {}, r"what is added is 48 x \(answers\), it must"),
        ("linear_add", ["f32[answers, 64]", "f32[rows, 48]", PANEL], {}, r"what is added is 48 x \(rows\), it must"),
        ("gated_linear", ["f32[rows, 64]", PANEL], {}, "7=1 takes two linears of one size"),
        ("add", ["f32[rows, 8]", "f32[rows, 9]"], {}, r"8 x \(rows\) and 9 x \(rows\) do not fit"),
        ("add", ["f32[rows, 8]"], {}, "add reads a, b, it is given 1 values"),
        ("add", ["f32[rows, 8]"] * 3, {}, "add reads a, b, it is given 3 values"),
        ("silu", ["i32[rows, 8]"], {}, r"x of silu is i32\[rows, 8\], it must be f32"),
        ("split_heads", ["f32[rows, 50]"], {"heads": 4}, "50 columns do not divide into 4 heads"),
        ("split_heads", ["f32[rows, n]"], {"heads": 4}, r"f32\[rows, n\] has no number where one is needed"),
        ("split_heads", ["f32[rows, 64]"], {}, "split_heads lacks heads"),
        ("split_heads", ["f32[rows, 64]"], {"heads": 2.5}, "heads=2.5 of split_heads must be a whole number"),
        ("all_reduce", ["f32[rows, 64]"], {"group": 2}, "there is no group 2"),
        ("send", ["f32[rows, 64]"], {"group": 0, "peer": -1}, "peer -1 is none of"),
        ("rotary", ["f32[4, rows, 16]", "f32[rows, 8]", "f32[rows, 7]"], {}, "sin is 7 x rows, it must be 8 x rows"),
        (
            "attention", ["f32[n, 64]", "f32[n, 64]", "f32[n, 32]"], {"heads": 4, "kv_heads": 2, "head_dim": 16},
            "k is 64 x rows, of 2 heads of 16 it is 32 x rows",
        ),
        (
            "sdpa",
            ["f32[4, n, 16]", "f32[2, n, 16]", "f32[2, n, 16]", "f32[n, m+n]", "f32[2, n, 16]", "f32[2, n, 16]"],
            {}, "the past of k is",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(name, reads, attributes, said):
    with pytest.raises(GraphError, match=said):
        made_of(name, types(reads), attributes)


def test_the_builder_refuses_where_it_is_written():
    g = GraphBuilder("wrong")
    x = g.input("x", "f32[rows, 8]")
    with pytest.raises(GraphError, match=r"8 x \(rows\) and 9 x \(rows\) do not fit"):
        g.step("add", x, g.input("y", "f32[rows, 9]"))
    with pytest.raises(GraphError, match="gives 2 values, it carries 1"):
        g.repeat("layer", range(3), {"h": x}, lambda inner, h: (h, h))
    with pytest.raises(GraphError, match="by steps of 2"):
        g.repeat("layer", range(0, 4, 2), {"h": x}, lambda inner, h: h)


def test_equal_names_get_numbers():
    g = GraphBuilder("names")
    x = g.input("x", "f32[rows, 8]")
    assert [g.step("silu", x).name for _ in range(3)] == ["silu", "silu_2", "silu_3"]
