"""A package's graph and the way back: the same layers, parameters, places and names of weights."""

import pytest

from mpsplit.errors import GraphError
from mpsplit.export.graph.fuse import fuse
from mpsplit.export.graph.packed_linears import quantise
from mpsplit.graph.folding.folded_layers import folded
from mpsplit.graph.graph_parser import parse_graph
from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.lowered.param_of_graph import as_placed, in_order, param_of
from mpsplit.graph.shown.engine_view import engine_graph
from mpsplit.package.checked.layer_shapes import KINDS, RankSizes
from mpsplit.package.manifest import GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Param, without_splits
from mpsplit.package.stored.quantisation import LAYER, QLinear
from mpsplit.package.stored.recipe import Recipe
from tests.missing import needs
from tests.models import EXAMPLE

pytestmark = needs("the kernels")
WEIGHTS = ("Gemm", "QLinear", "RMSNorm", "MemoryData")


def meaning(param, outside):
    """Layers without Splits and without names that say nothing: blobs by numbers, fractions as
    numbers."""
    number, lines = {}, []
    for layer in without_splits(param.layers):
        reads = [number[blob] for blob in layer.bottoms]
        for blob in layer.tops:
            number[blob] = blob if blob in outside else len(number)
        fractions = KINDS[layer.type].fractions
        params = {key: float(value) if key in fractions else value for key, value in layer.params.items()}
        name = layer.name if layer.type in WEIGHTS else ""
        lines.append((layer.type, name, reads, [number[blob] for blob in layer.tops], params))
    return lines


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["f32", "q4"])
def test_there_and_back(package_of, ranks, kind):
    package = package_of(EXAMPLE, ranks, 1)
    manifest, rank = Manifest.load(package), ranks - 1
    family, head = manifest.facts.family, manifest.plan.shards[rank].head
    stock = quantise(Param.load(rank_folder(package, rank) / GRAPH), Recipe.parse(kind, 32), family)
    names = {QLinear.of(layer).offset: layer.name for layer in stock.of_type(LAYER)}
    assert bool(names) == (kind == "q4")
    for param, place in ((stock, in_order(family.layer_of)), (fuse(stock, head.start), as_placed(stock))):
        sizes = RankSizes.of(manifest, rank, fused=param is not stock)
        there = engine_graph(param, sizes, "a rank", names)
        back = param_of(parse_graph(graph_text(folded(there))), place)
        outside = sizes.inputs().keys() | sizes.outputs()
        assert meaning(back, outside) == meaning(param, outside)
        assert engine_graph(Param.parse(str(back)), sizes, "a rank", names) == there


WRONG = {
    "x is no weight": "input h: f32[rows, 8]\nweight w: f32[8] of x\ny: f32[rows, 8] = rms_norm(h, w)",
    "which it is not, or another step has it":
        "input h: f32[rows, 8]\nweight w: f32[8] of x.weight\ny: f32[rows, 8] = rms_norm(h, w)\n"
        "z: f32[rows, 8] = rms_norm(y, w)",
    "an engine picks rows of the output hidden_out alone":
        "input h: f32[rows, 8]\ny: f32[answers, 8] = wanted_rows(h)\noutput y",
    "the output y is hidden already": "input hidden: f32[rows, 8]\noutput hidden as y",
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_engine_has_is_refused(wrong):
    with pytest.raises(GraphError, match=wrong):
        param_of(parse_graph(f'graph "wrong"\n{WRONG[wrong]}'), in_order(len))
