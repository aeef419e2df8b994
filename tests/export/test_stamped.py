"""The stamped graph of a miniature against a conversion of the whole slice, all layers and true
sizes: equal up to names."""

from dataclasses import replace

import pytest
import torch

from mpsplit.comm import Alone
from mpsplit.errors import ConvertError
from mpsplit.export.graph.named_weights import named_weights
from mpsplit.export.graph.pnnx import find_pnnx, run_pnnx, shapes_of
from mpsplit.export.graph.rank_graphs import make_graphs
from mpsplit.export.graph.rewrites import REWRITES, Context
from mpsplit.export.graph.rewrites.all_layers import all_layers
from mpsplit.export.graph.rewrites.true_sizes import true_sizes
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.export.trace import torchscript
from mpsplit.export.trace.capture import calls, capture
from mpsplit.export.trace.miniature import fingerprint, miniature
from mpsplit.export.trace.slicing import build_whole, slice_model
from mpsplit.export.trace.trace_inputs import examples
from mpsplit.package.manifest import PARTITION, Manifest
from mpsplit.package.param_text import Layer, Param, with_splits, without_splits
from mpsplit.package.stored.recipe import Recipe
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan, Range, Share, even_plan, lay_out
from tests.cases import thorough
from tests.models import FAMILIES, make_model

SOME = ("llama", "qwen3")
ROWS = Share(0, 0, embed=131)
UNEVEN = {  # family, and the layers and shares of each stage
    "an embedding, 70 to 30, a head": (
        "llama-bias",
        [(0, [ROWS]), (3, [Share(6, 67), Share(2, 29)]), (0, [Share(0, 0, head=131)])],
    ),
    "no heads here, no MLP there, neither there": (
        "llama-bias",
        [(3, [Share(8, 0, embed=131), Share(0, 96), Share(0, 0, head=131)])],
    ),
    "the same with norms of heads": (
        "qwen3",
        [(3, [Share(8, 0, embed=131), Share(0, 96), Share(0, 0, head=131)])],
    ),
    "three layers, then one": ("qwen2-tied", [(3, [replace(ROWS, heads=8, mlp=96)]), (1, [Share(8, 96, head=131)])]),
}


def in_full(folder, plan: Plan, rank: int, facts: ModelFacts, scratch) -> Param:
    """The rank's whole slice through pnnx, as if it were small."""
    stage = slice_model(
        build_whole(folder), plan, rank, facts, lambda n, _, shape: torch.from_numpy(fingerprint(n, shape))
    )
    example, shard = examples(facts), plan.shards[rank]
    graph_module = capture(stage, example[0])
    scratch.mkdir()
    torchscript.save(graph_module, example[0], scratch / "full.pt", "module")
    converted = run_pnnx(find_pnnx(), scratch / "full.pt", list(map(shapes_of, example)), scratch)
    shapes = {name: tuple(parameter.shape) for name, parameter in stage.named_parameters()}
    lengths = tuple(e.length for e in example)
    context = Context(calls(graph_module), lengths, shard.attentions, bool(len(shard.head)), shard.layers, shapes)
    param = named_weights(Param.load(converted.ncnn_param), converted.ncnn_bin, shapes)
    for rewrite in REWRITES:
        if rewrite is not all_layers:
            before, param = param, rewrite(param, context)
            assert rewrite is not true_sizes or before == param
    return Param(with_splits(without_splits(param.layers)))


def without_names(param: Param) -> list[str]:
    """Blobs by number, in the order in which they are made; layers by their weights."""
    number, out = {}, []
    for layer in without_splits(param.layers):
        for blob in layer.tops:
            number[blob] = blob if layer.type == "Input" or not blob[-1].isdigit() else f"#{len(number)}"
        own = layer.name if layer.name.startswith(("model.", "lm_head")) else layer.type
        out.append(str(replace(layer.rename(number), name=own)))
    return out


@pytest.fixture
def compare(tmp_path):
    def make(folder, plan: Plan) -> None:
        facts = ModelFacts.from_config(read_config(folder))
        partition(folder, plan, tmp_path / "out", Alone())
        told = Manifest.load(tmp_path / "out", PARTITION)
        for rank in range(plan.ranks):
            stamped = make_graphs(told, tmp_path / "out", rank, find_pnnx(), Recipe()).param
            whole = in_full(folder, plan, rank, facts, tmp_path / f"full-{rank}")
            assert without_names(stamped) == without_names(whole)

    return make


@pytest.mark.seconds(300)
@pytest.mark.parametrize("family", [*SOME, *thorough(*(family for family in FAMILIES if family not in SOME))])
def test_every_family(compare, tmp_path, family):
    folder = make_model(family, tmp_path / "model", changes=dict(num_hidden_layers=3))
    compare(folder, even_plan(ModelFacts.from_config(read_config(folder)), 2, 1))


@pytest.mark.seconds(300)
@pytest.mark.parametrize("case", [list(UNEVEN)[1], *thorough(list(UNEVEN)[0], *list(UNEVEN)[2:])])
def test_uneven_plans(compare, tmp_path, case):
    family, stages = UNEVEN[case]
    folder = make_model(family, tmp_path / "model", changes=dict(num_hidden_layers=sum(layers for layers, _ in stages)))
    compare(folder, lay_out(ModelFacts.from_config(read_config(folder)), stages))


TWO = """\
Input hidden 0 1 hidden
Input cos 0 1 cos
RMSNorm model.layers.4.norm 1 1 hidden a 0=8
Foo f 2 1 a cos b
Add g 2 1 hidden b c
RMSNorm model.layers.5.norm 1 1 c d 0=8
Foo h 2 1 d cos e
Add i 2 1 c e hidden_out
Send s 1 1 hidden_out out
"""


def stamped(text: str, layers: int) -> list[str]:
    context = Context((), (), 0, False, Range(4, 4 + layers))
    return [" ".join(str(layer).split()) for layer in all_layers(Param.parse(f"7767517\n0 0\n{text}"), context).layers]


def test_two_layers_become_three():
    assert [line for line in stamped(TWO, 3) if not line.startswith("Split")] == [
        "Input hidden 0 1 hidden",
        "Input cos 0 1 cos",
        "RMSNorm model.layers.4.norm 1 1 hidden_0 4.0 0=8",
        "Foo 4.Foo.1 2 1 4.0 cos_0 4.1",
        "Add 4.Add.2 2 1 hidden_1 4.1 4.2",
        "RMSNorm model.layers.5.norm 1 1 4.2_0 5.0 0=8",
        "Foo 5.Foo.1 2 1 5.0 cos_1 5.1",
        "Add 5.Add.2 2 1 4.2_1 5.1 5.2",
        "RMSNorm model.layers.6.norm 1 1 5.2_0 6.0 0=8",
        "Foo 6.Foo.1 2 1 6.0 cos_2 6.1",
        "Add 6.Add.2 2 1 5.2_1 6.1 hidden_out",
        "Send s 1 1 hidden_out out",
    ]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("Foo h 2 1 d", "Bar h 2 1 d", "became different layers: .*Foo.* and .*Bar"),
        ("model.layers.5.norm 1 1 c d 0=8", "model.layers.5.norm 1 1 c d 0=9", "became different layers"),
        ("Add i 2 1 c e", "Add i 2 1 c d", "became different layers"),
        ("Foo h 2 1 d cos e", "Foo h 2 1 d a e", "became different layers|reads 2 blobs"),
        ("model.layers.5.norm", "norm", "nothing tells one decoder layer from the next"),
    ],
)
def test_layers_that_are_not_alike_are_refused(old, new, message):
    assert old in TWO
    with pytest.raises(ConvertError, match=message):
        stamped(TWO.replace(old, new), 3)


def test_a_miniature_keeps_heads_and_nothing_large(tmp_path):
    facts = ModelFacts("LlamaForCausalLM", 4096, 32, 32, 32, 128, 11008, 32000, 2048, False)
    small = miniature(facts, even_plan(facts, 2, 2), 3)
    shard = small.plan.shards[3]
    assert (len(shard.heads), len(shard.kv_heads), shard.layers) == (16, 16, Range(16, 18))
    assert max(small.facts.hidden, len(shard.mlp), len(shard.head)) < 100


def test_an_array_that_is_no_weight_is_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(16))
    with pytest.raises(ConvertError, match=r"norm has an array of \[4\] that is no weight of the model"):
        named_weights(Param((Layer("RMSNorm", "norm", ("a",), ("b",), {"0": "4"}),)), tmp_path / "x.bin", {"w": (4,)})
    with pytest.raises(ConvertError, match="left 1 of 1 weights out of its graph: w"):
        (tmp_path / "x.bin").write_bytes(b"")
        named_weights(Param(()), tmp_path / "x.bin", {"w": (4,)})
