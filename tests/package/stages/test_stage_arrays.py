"""The arrays of a stage's .bin, and graphs that do not fit theirs."""

import numpy as np
import pytest

from mpsplit.errors import PackageError
from mpsplit.package.param_text import Param
from mpsplit.package.stages.stage_arrays import check_stage_graph, read, write

TEXT = """7767517
5 5
Input                    in0                      0 1 in0
LayerNorm                norm                     1 1 in0 1 0=4 1=1.000000e-12 2=1
MultiHeadAttention       heads                    1 1 1 2 0=4 1=2 2=16 3=4 4=4
Embed                    rows                     1 1 2 3 0=3 1=5 2=0 3=15
InnerProduct             head                     1 1 3 out0 0=2 1=1 2=8
"""


@pytest.fixture
def files(tmp_path):
    graph, floats = tmp_path / "stage-00.param", tmp_path / "stage-00.bin"
    graph.write_text(TEXT)
    chance = np.random.default_rng(0)
    sizes = {"norm": [4, 4], "heads": [16, 4] * 4, "rows": [15], "head": [8, 2]}
    arrays = {name: [chance.standard_normal(n, np.float32) for n in of] for name, of in sizes.items()}
    write(Param.load(graph), arrays, floats)
    return graph, floats, arrays


def test_there_and_back(files):
    graph, floats, arrays = files
    found = read(Param.load(graph), floats)
    assert found.keys() == arrays.keys()
    for name, of_layer in arrays.items():
        for a, b in zip(found[name], of_layer, strict=True):
            np.testing.assert_array_equal(a, b)
    check_stage_graph(graph, floats, 1, 1)


@pytest.mark.parametrize(
    "old, new, inputs, outputs, message",
    [
        ("0=2 1=1 2=8", "0=2 1=1 2=9", 1, 1, "its graph accounts for"),
        ("0=2 1=1 2=8", "0=2 1=1 2=999999999", 1, 1, "its graph accounts for"),
        ("in0 ", "in0 ", 2, 1, "lacks"),
        ("in0 ", "in0 ", 1, 2, "lacks"),
        ("5 5", "5 6", 1, 1, "is damaged"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(files, old, new, inputs, outputs, message):
    graph, floats, _ = files
    graph.write_text(graph.read_text().replace(old, new, 1))
    with pytest.raises(PackageError, match=message):
        check_stage_graph(graph, floats, inputs, outputs)


def test_a_file_with_other_bytes_is_refused(files):
    graph, floats, _ = files
    floats.write_bytes(floats.read_bytes()[:-4])
    with pytest.raises(PackageError, match="layers account for"):
        read(Param.load(graph), floats)
