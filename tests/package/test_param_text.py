from mpsplit.package.param_text import Layer, Param

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
