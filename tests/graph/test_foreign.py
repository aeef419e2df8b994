"""What torch captured and what pnnx made of it, as graphs: typed where they say types, printed and
read back unchanged."""

import pytest

from mpsplit.errors import GraphError
from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.foreign.captured_view import captured_graph
from mpsplit.graph.foreign.pnnx_view import pnnx_graph
from mpsplit.graph.graph_parser import parse_graph
from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.lowered.param_of_graph import in_order, param_of
from mpsplit.graph.shown.arena import plan_arena
from mpsplit.graph.typed_graph import Repeat
from tests.running import mpsplit, refused

PNNX = """7767517
8 8
pnnx.Input       in    0 1 0 #0=(1,?,24)f32
nn.Linear        up    1 1 0 1 bias=False @weight=(64,24)f32 $input=0 #0=(1,?,24)f32 #1=(1,?,64)f32
Tensor.reshape   heads 1 1 1 2 shape=(1,-1,2,32) #2=(1,?,2,32)f32
torch.transpose  turn  1 1 2 3 dim0=1 dim1=-2 #3=(1,2,?,32)f32
torch.tensor_split cut 1 2 3 4 5 dim=3 indices=(8) #4=(1,2,?,8)f32 #5=(1,2,?,24)f32
torch.cat        join  2 1 5 4 6 dim=-1 #6=(1,2,?,32)f32
my::kernel       own   1 1 6 7 #7=(?,32)f16
pnnx.Output      out   1 0 7
"""
FX = """graph():
    %x : [num_users=1] = placeholder[target=x]  # f32[1, rows, 8]
    %w_0 : [num_users=1] = get_attr[target=layers.0.w]  # f32[8, 8]
    %w_1 : [num_users=1] = get_attr[target=layers.1.w]  # f32[8, 8]
    %y : [num_users=2] = call_function[target=torch.matmul](args = (%x, %w_0), kwargs = {})  # f32[1, rows, 8]
    %z : [num_users=1] = call_method[target=to](args = (%y, torch.float32), kwargs = {})
    %size : [num_users=1] = call_method[target=size](args = (%z, 1), kwargs = {})
    %v : [num_users=1] = call_method[target=view](args = (%z, (1, %size, -1)), kwargs = {memory: [1, 2]})
    return (v, y)
"""


def test_what_pnnx_says_and_what_follows():
    graph = pnnx_graph(PNNX, "pnnx")
    assert parse_graph(graph_text(graph)) == graph
    lines = graph_text(graph).splitlines()
    assert "v1: f32[1, n1, 64] = nn.Linear(in, up.weight) bias=False" in lines
    assert "v2: f32[1, n1, 2, 32] = Tensor.reshape(v1) shape=(1,-1,2,32)" in lines
    assert "v4: f32[1, 2, n1, 8], v5: f32[1, 2, n1, 24] = torch.tensor_split(v3) dim=3 indices=(8)" in lines
    assert "v7: f16[n2, 32] = my.kernel(v6)" in lines
    assert plan_arena(graph, {"n1": 10, "n2": 10}).bytes == 2 * 10 * 64 * 4


def test_what_was_captured():
    graph = captured_graph(FX, "captured")
    assert parse_graph(graph_text(graph)) == graph
    lines = graph_text(graph).splitlines()
    assert "weight w_0: f32[8, 8] of layers.0.w" in lines
    assert "y: f32[1, rows, 8] = torch.matmul(x, w_0)" in lines
    assert "v: any[] = Tensor.view(z, size) args=$0,(1,$1,-1) kwargs=memory:[1,2]" in lines
    assert [output.value for output in graph.body.outputs] == ["v", "y"]
    with pytest.raises(GraphError, match=r"nobody says how many bytes any\[\] has"):
        plan_arena(graph, {"rows": 1})
    with pytest.raises(GraphError, match="there is no operator 'torch.matmul'"):
        param_of(graph, in_order(str))


@pytest.mark.parametrize("read, text, said", [
    (captured_graph, FX.replace("%x, %w_0", "%x, %q"), "line 5: %q is read, which nobody makes before it"),
    (captured_graph, "graph():\n  nonsense", "line 2: 'nonsense' is none of a captured graph's"),
    (pnnx_graph, PNNX.replace("1 1 0 1 bias", "1 1 9 1 bias"), "up of pnnx's graph reads '9', which nobody makes"),
    (pnnx_graph, "7", "this is none of pnnx's graphs: not an ncnn .param"),
])  # fmt: skip
def test_what_is_none_is_refused(read, text, said):
    with pytest.raises(GraphError) as wrong:
        read(text, "x")
    assert said in str(wrong.value)


def test_both_of_a_conversion(package_of):
    """The longest graph of a package is on disk as it was captured, with a type for each array."""
    package = package_of("llama", 2, 1)
    text = (package / "rank-0" / "graph.fx.txt").read_text()
    graph = captured_graph(text, "captured")
    (repeat,) = (step for step in folded(graph).body.steps if isinstance(step, Repeat))
    assert all(str(given.type).startswith("f32[") for given in graph.body.given)
    said = mpsplit("inspect", package, "--graph", "captured")
    assert f"repeat layer {repeat.first}..{repeat.stop}" in said and "f32[1, rows, " in said
    assert "any[]" not in "".join(line for line in said.splitlines() if "linear(" in line)
    assert "F.scaled_dot_product_attention(" in mpsplit("inspect", package, "--graph", "pnnx", "--rank", 1)
    assert "only prints, and has no use for --svg" in refused("inspect", package, "--graph", "pnnx", "--svg", "x")
    assert "has no rank-7" in refused("inspect", package, "--graph", "captured", "--rank", 7)


def test_what_does_not_lie_there_is_said(tmp_path):
    (tmp_path / "rank-0").mkdir()
    said = refused("inspect", tmp_path, "--graph", "captured")
    assert "rank-0 has no *.fx.txt; `mpsplit partition` leaves it" in said and len(said.strip().splitlines()) == 1
