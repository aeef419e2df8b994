import pytest

from mpsplit.errors import PackageError
from mpsplit.package.param_text import LONGEST_WORD, Layer, Param

TEXT = """7767517
3 4
Input                    in0                      0 1 in0
Split                    split_0                  1 2 in0 1 2
Reshape                  reshape_22               1 1 1 out0 6="8,6,0h" 1=1.000000e-6
"""


def test_text_survives_a_round_trip():
    param = Param.parse(TEXT)
    assert str(param) == TEXT
    assert param.layers[2] == Layer("Reshape", "reshape_22", ("1",), ("out0",), {"6": '"8,6,0h"', "1": "1.000000e-6"})


def test_finding_and_renaming():
    param = Param.parse(TEXT)
    assert param.producer("1").name == "split_0"
    assert [layer.name for layer in param.consumers("1")] == ["reshape_22"]
    assert param.layers[1].rename({"in0": "hidden"}).bottoms == ("hidden",)


def test_layers_of_some_types():
    param = Param.parse(TEXT)
    assert [layer.name for layer in param.of_type("Split", "Input")] == ["in0", "split_0"]
    assert param.of_type("Gemm") == []


def test_blobs_that_nobody_makes_or_reads():
    assert Layer.parse("Noop noop 0 0") == Layer("Noop", "noop")
    assert Layer.parse(f"Input {'a' * LONGEST_WORD} 0 1 x").tops == ("x",)


@pytest.mark.parametrize(
    "line, told",
    [
        ("Input in0 0", "no layer"),
        (f"Input {'a' * (LONGEST_WORD + 1)} 0 1 x", "no layer"),
        ("Input in0 0 -1 x", "'in0' counts 0 . -1 blobs and names 1"),
        ("Input in0 1 1 x", "'in0' counts 1 . 1 blobs and names 1"),
        ("Input in0 0 1 x 0=1 0=2", "a parameter twice"),
        ("Input in0 0 1 x 0=", "one that says nothing"),
        ("Input in0 0 1 x =1", "one that says nothing"),
        ("Input in0 0 1 x y", "one that says nothing"),
    ],
)
def test_lines_that_are_no_layer(line, told):
    with pytest.raises(PackageError, match=told):
        Layer.parse(line)


def test_numbers_of_a_layer():
    layer = Layer("Gemm", "x", params={"8": "-3", "9": "1_0"})
    assert (layer.number("8"), layer.number("10", 4)) == (-3, 4)
    with pytest.raises(PackageError, match="'x' .Gemm. lacks parameter 10"):
        layer.number("10")
    with pytest.raises(PackageError, match="'1_0' is no whole number"):
        layer.number("9")
