"""Fused graphs: fewer layers, the same weights in the same order, the same collectives, every blob
with one reader."""

import pytest

from mpsplit.errors import ConvertError
from mpsplit.export.graph.fuse import fuse
from mpsplit.package.param_text import Param

DECODER = """\
7767517
0 0
Input hidden 0 1 hidden
Input cos 0 1 cos
Input sin 0 1 sin
Input mask 0 1 mask
Input past_k0 0 1 past_k0
Input past_v0 0 1 past_v0
Split s0 1 2 hidden h0 h1
RMSNorm norm0 1 1 h0 n0 0=64 1=1e-6 2=1
Split s1 1 3 n0 n0a n0b n0c
QLinear q 1 1 n0a q0 0=64 1=64 2=4 3=32 4=0 5=100 6=-1
Reshape rq 1 1 q0 q1 6="16,4,0h"
Permute pq 1 1 q1 q2 0=2
QLinear k 1 1 n0b k0 0=32 1=64 2=4 3=32 4=2 5=50 6=-1
Reshape rk 1 1 k0 k1 6="16,2,0h"
Permute pk 1 1 k1 k2 0=2
QLinear v 1 1 n0c v0 0=32 1=64 2=4 3=32 4=3 5=50 6=7
Reshape rv 1 1 v0 v1 6="16,2,0h"
Permute pv 1 1 v1 v2 0=2
Split sc 1 2 cos cosa cosb
Split ss 1 2 sin sina sinb
RotaryEmbed rope_q 3 1 q2 cosa sina q3 0=0
RotaryEmbed rope_k 3 1 k2 cosb sinb k3 0=0
SDPA sdpa0 6 3 q3 k3 v2 mask past_k0 past_v0 a0 k_0 v_0 5=1 6=0.25 7=1
Permute pa 1 1 a0 a1 0=2
Reshape ra 1 1 a1 a2 6="64,0c"
QLinear o 1 1 a2 o0 0=64 1=64 2=4 3=32 4=8 5=100 6=-1
BinaryOp add0 2 1 h1 o0 x0 0=0
Split s2 1 2 x0 x0a x0b
RMSNorm norm1 1 1 x0b n1 0=64 1=1e-6 2=1
Split s3 1 2 n1 n1a n1b
QLinear gate 1 1 n1a g0 0=96 1=64 2=4 3=32 4=10 5=150 6=-1
Swish silu 1 1 g0 g1
QLinear up 1 1 n1b u0 0=96 1=64 2=4 3=32 4=13 5=150 6=-1
BinaryOp mul 2 1 g1 u0 m0 0=2
QLinear down 1 1 m0 d0 0=64 1=96 2=4 3=32 4=16 5=150 6=-1
BinaryOp add1 2 1 x0a d0 hidden_out 0=0
RMSNorm norm2 1 1 hidden_out n2 0=64 1=1e-6 2=1
QLinear head 1 1 n2 logits 0=131 1=64 2=4 3=32 4=19 5=200 6=-1
"""


def lines(param: Param) -> list[str]:
    return [" ".join(str(layer).split()) for layer in param.layers]


def changed(old: str, new: str) -> Param:
    assert old in DECODER
    return Param.parse(DECODER.replace(old, new))


def test_a_decoder_layer():
    assert lines(fuse(Param.parse(DECODER), 500)) == [
        "Input hidden 0 1 hidden",
        "Split split_hidden 1 2 hidden hidden_0 hidden_1",
        "RMSNorm norm0 1 1 hidden_0 n0 0=64 1=1e-6 2=1",
        "QLinear q 1 3 n0 q0 k0 v0 0=64 1=64 2=4 3=32 4=0 5=100 6=-1 10=32 11=64 12=4 13=32 14=2 15=50 16=-1 "
        "20=32 21=64 22=4 23=32 24=3 25=50 26=7",
        "Attention sdpa0 3 1 q0 k0 v0 a2 0=4 1=2 2=16 3=0.25",
        "QLinear o 2 1 a2 hidden_1 x0 0=64 1=64 2=4 3=32 4=8 5=100 6=-1 8=1",
        "Split split_x0 1 2 x0 x0_0 x0_1",
        "RMSNorm norm1 1 1 x0_0 n1 0=64 1=1e-6 2=1",
        "QLinear up 1 1 n1 m0 0=96 1=64 2=4 3=32 4=13 5=150 6=-1 10=96 11=64 12=4 13=32 14=10 15=150 16=-1 7=1",
        "QLinear down 2 1 m0 x0_1 hidden_out 0=64 1=96 2=4 3=32 4=16 5=150 6=-1 8=1",
        "RMSNorm norm2 1 1 hidden_out n2 0=64 1=1e-6 2=1",
        "QLinear head 1 1 n2 logits 0=131 1=64 2=4 3=32 4=19 5=200 6=-1",
        "TopK top 1 1 logits top 0=64 1=500",
    ]


def test_a_sum_over_the_ranks_keeps_product_and_sum_apart():
    param = changed("BinaryOp add0 2 1 h1 o0 x0 0=0", "AllReduce r 1 1 o0 o1 1=1\nBinaryOp add0 2 1 h1 o1 x0 0=0")
    kinds = [layer.type for layer in fuse(param, 0).layers]
    assert kinds.count("AllReduce") == kinds.count("BinaryOp") == 1
    assert "8" not in next(layer for layer in fuse(param, 0).layers if layer.name == "o").params


def test_a_gate_with_a_bias_is_not_one_product():
    fused = fuse(changed("4=10 5=150 6=-1", "4=10 5=150 6=30"), 0)
    (both,) = [layer for layer in fused.layers if layer.name == "gate"]
    assert both.tops == ("g0", "u0") and both.params["6"] == "30" and "7" not in both.params
    assert len(fused.of_type("Swish")) == 1


def test_norms_of_heads_stay_before_attention():
    param = changed("Permute pq 1 1 q1 q2 0=2", "RMSNorm nq 1 1 q1 qn 0=16 1=1e-6 2=1\nPermute pq 1 1 qn q2 0=2")
    (attention,) = fuse(param, 0).of_type("Attention")
    assert attention.bottoms == ("qn", "k0", "v0")


def test_blocks_of_two_sizes_are_not_one_product():
    param = changed("0=32 1=64 2=4 3=32 4=3", "0=32 1=64 2=4 3=64 4=3")
    (first,) = [layer for layer in fuse(param, 0).layers if layer.name == "q"]
    assert first.tops == ("q0", "k0")


def test_products_in_bfloat16_join_each_other_and_no_integers():
    param = changed("0=64 1=64 2=4 3=32 4=0", "0=64 1=64 2=16 3=32 4=0")
    found = {layer.name: layer.tops for layer in fuse(param, 0).of_type("QLinear")}
    assert found["q"] == ("q0",) and found["k"] == ("k0", "v0")


@pytest.mark.parametrize("bits, block", [(16, 32), (4, 64)])
def test_a_gate_that_reads_its_input_otherwise_is_not_one_product(bits, block):
    fused = fuse(changed("2=4 3=32 4=10", f"2={bits} 3={block} 4=10"), 0)
    found = {layer.name: layer.tops for layer in fused.of_type("QLinear")}
    assert found["gate"] == ("g0",) and found["up"] == ("u0",) and len(fused.of_type("Swish")) == 1


def test_attention_of_another_form_is_refused():
    with pytest.raises(ConvertError, match="comes from Swish, not from RotaryEmbed"):
        fuse(changed("RotaryEmbed rope_q 3 1 q2 cosa sina q3 0=0", "Swish rope_q 1 1 q2 q3"), 0)


def test_what_adds_or_multiplies_a_number_stays():
    """So a rank makes zeros of what it does not read, and pnnx a norm out of small operators."""
    for operation in "02":
        number = f"BinaryOp number 1 1 a2 az 0={operation} 1=1 2=0.0"
        fused = fuse(changed("QLinear o 1 1 a2", f"{number}\nQLinear o 1 1 az"), 0)
        assert number in lines(fused)


def test_every_blob_has_one_reader():
    layers = fuse(Param.parse(DECODER), 0).layers
    read = [blob for layer in layers for blob in layer.bottoms]
    assert len(read) == len(set(read))
