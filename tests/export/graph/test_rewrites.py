from dataclasses import replace

import pytest

from mpsplit.errors import ConvertError
from mpsplit.export.graph.rewrites import Context
from mpsplit.export.graph.rewrites.dynamic_length import dynamic_length
from mpsplit.export.graph.rewrites.flat_rope_tables import flat_rope_tables
from mpsplit.export.graph.rewrites.head_from_hidden import head_from_hidden
from mpsplit.export.graph.rewrites.kv_cache import kv_cache
from mpsplit.export.graph.rewrites.named_blobs import named_blobs
from mpsplit.export.graph.rewrites.one_spelling import one_spelling
from mpsplit.package.param_text import Param

CONTEXT = Context((), (53, 59), 1, True)


def param(*lines: str) -> Param:
    return Param.parse("\n".join(["7767517", "0 0", *lines]))


def lines(param: Param) -> list[str]:
    return [" ".join(str(layer).split()) for layer in param.layers]


def test_named_blobs():
    inputs = [f"Input in{i} 0 1 in{i}" for i in range(4)]
    rewritten = named_blobs(param(*inputs, "Foo f 4 2 in0 in1 in2 in3 out0 out1"), CONTEXT)
    assert lines(rewritten)[0] == "Input hidden 0 1 hidden"
    assert lines(rewritten)[-1] == "Foo f 4 2 hidden cos sin mask hidden_out logits"
    with pytest.raises(ConvertError, match="pnnx left out1 out of its graph"):
        named_blobs(param(*inputs, "Foo f 4 1 in0 in1 in2 in3 out0"), CONTEXT)


@pytest.mark.parametrize(
    "one, other",
    [
        ("Reshape r 1 1 hidden 1 0=16 1=4 2=-1", 'Reshape r 1 1 hidden 1 6="16,4,0h"'),
        ("Reshape r 1 1 hidden 1 0=64 1=-1", 'Reshape r 1 1 hidden 1 6="64,0c"'),
        ("Reshape r 1 1 hidden 1 0=24 1=1", "Reshape r 1 1 hidden 1 0=24 1=1"),
        ("Reshape r 1 1 hidden 1 0=-1 1=-1", "Reshape r 1 1 hidden 1 0=-1 1=-1"),
        ("BinaryOp b 1 1 hidden 1 0=2 1=1 2=0.5", "BinaryOp b 1 1 hidden 1 0=2 1=1 2=0.5"),
    ],
)
def test_open_rows_become_an_expression(one, other):
    assert lines(one_spelling(param("Input x 0 1 hidden", one), CONTEXT))[1:] == [other]


def test_a_bias_becomes_a_column_and_blobs_are_counted():
    """What one release writes, and what another."""
    begin = ("Input x 0 1 hidden", "MemoryData o.bias 0 1 1 0=24", "Swish s 1 1 hidden 2")
    bare = param(*begin, "BinaryOp add_0 2 1 2 1 3 0=0", "Swish t 1 1 3 hidden_out", "Swish u 1 1 hidden_out 5")
    column = param(
        *begin,
        "Reshape add_0_ncnnreshape0 1 1 1 3 0=24 1=1",
        "BinaryOp add_0 2 1 2 3 4 0=0",
        "Swish t 1 1 4 hidden_out",
        "Swish u 1 1 hidden_out 6",
    )
    assert one_spelling(bare, CONTEXT) == one_spelling(column, CONTEXT) == column


def test_dynamic_length():
    fine = param('Reshape r 1 1 a b 6="48,0c"', "Reshape s 1 1 b c 0=48 1=-1")
    assert dynamic_length(fine, CONTEXT) == fine
    for fixed in ("Reshape r 1 1 a b 0=48 1=53", 'Reshape r 1 1 a b 6="48,59"'):
        with pytest.raises(ConvertError, match=r"pnnx fixed the length 5\d into r"):
            dynamic_length(param(fixed), CONTEXT)


def test_flat_rope_tables():
    rewritten = flat_rope_tables(
        param(
            "ExpandDims e 1 1 cos 1 -23303=1,0",
            "Split s 1 2 1 2 3",
            "ExpandDims f 1 1 sin 4",
            "RotaryEmbed r 3 1 q 2 4 5",
            "RotaryEmbed t 3 1 k 3 4 6",
        ),
        CONTEXT,
    )
    assert lines(rewritten) == ["Split s 1 2 cos 2 3", "RotaryEmbed r 3 1 q 2 sin 5", "RotaryEmbed t 3 1 k 3 sin 6"]
    other_user = param("ExpandDims e 1 1 cos 1", "BinaryOp b 2 1 1 x 2")
    assert flat_rope_tables(other_user, CONTEXT) == other_user


def test_head_from_hidden():
    rewritten = head_from_hidden(
        param("BinaryOp b 2 1 x y 86", "Split s 1 2 86 hidden_out 88", "RMSNorm n 1 1 88 89"), CONTEXT
    )
    assert lines(rewritten) == ["BinaryOp b 2 1 x y hidden_out", "RMSNorm n 1 1 hidden_out 89"]
    without_head = param("Send s 1 1 86 hidden_out")
    assert head_from_hidden(without_head, CONTEXT) == without_head


def test_kv_cache():
    rewritten = kv_cache(param("Input hidden 0 1 hidden", "SDPA a 4 1 q k v m o 5=1 6=0.35"), CONTEXT)
    assert lines(rewritten) == [
        "Input hidden 0 1 hidden",
        "Input past_k0 0 1 past_k0",
        "Input past_v0 0 1 past_v0",
        "SDPA a 6 3 q k v m past_k0 past_v0 o k0 v0 5=1 6=0.35 7=1",
    ]
    with pytest.raises(ConvertError, match="recognised 0 attentions, the rank has 1 layers with heads"):
        kv_cache(param("Input hidden 0 1 hidden"), CONTEXT)
    without = param("Input hidden 0 1 hidden", "BinaryOp none 1 1 hidden o 0=2 1=1 2=0.0")
    assert kv_cache(without, replace(CONTEXT, attentions=0)) == without
    with pytest.raises(ConvertError, match="no mask"):
        kv_cache(param("SDPA a 3 1 q k v o"), CONTEXT)
