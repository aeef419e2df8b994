"""What inspect says of a package's bytes is what its files have; the residual stream finds the
parts of every graph."""

import json

import pytest

from mpsplit.errors import RunError
from mpsplit.package.inside.anatomy import anatomy
from mpsplit.package.inside.inspection import describe, inspect
from mpsplit.package.manifest import FUSED, GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.float_weights import FLAG, arrays_of
from mpsplit.package.stored.weight_files import WeightFiles
from tests.models import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_add_up_to_the_files(package_of, family):
    package = package_of(family, 2, 1)
    manifest = Manifest.load(package)
    for held in inspect(package, manifest).ranks:
        folder = rank_folder(package, held.rank)
        graph = Param.load(folder / GRAPH)
        flags = len(FLAG) * sum(array.flagged for layer in graph.layers for array in arrays_of(layer))
        files = WeightFiles.load(folder)
        assert (files.embedding is None) == manifest.facts.tied
        stored = sum((folder / name).stat().st_size for name in files.names) - flags
        assert held.total.weight_bytes == stored
        assert held.total.bits == 32
        layers = [part for part in held.parts if part.name.startswith("layer")]
        assert [part.name for part in layers] == ["layer 0", "layer 1", "layer 2"]
        assert len({(part.weights, part.cache_bytes) for part in layers}) == 1 and layers[0].cache_bytes


@pytest.mark.parametrize("name", [GRAPH, FUSED])
def test_a_decoder_layer_is_found_in_both_graphs(package_of, name):
    graph = anatomy(Param.load(rank_folder(package_of("llama", 2, 2), 3) / name), 2)
    assert graph.in_order[-3:] == ("embedding", "layer 2", "head")
    assert [layer.type for layer in graph.of("embedding")] == ["Input", "Recv"]
    assert len(graph.hidden_states) == 2 and graph.hidden_states[-1] == "hidden_out" and graph.normed
    assert [layer.type for layer in graph.of("layer 2")].count("AllReduce") == 2


def test_the_context_is_the_users_and_no_longer_than_the_models(package_of):
    package = package_of("llama", 1, 1)
    manifest = Manifest.load(package)
    whole, short = (inspect(package, manifest, context).ranks[0].total.cache_bytes for context in (None, 32))
    assert whole == 4 * short > 0
    with pytest.raises(RunError, match="--context 129 is out of range; the model has room for 1 to 128 tokens"):
        inspect(package, manifest, 129)


def test_a_tied_head_on_another_stage_is_said_to_be_stored_twice(package_of):
    package = package_of("llama-mha-tied", 1, 2)
    told = describe(inspect(package, Manifest.load(package)))
    assert told["twice"][0].startswith("the head is tied to the embedding and stored beside it (ranks have other rows")
    assert "33,536 bytes of F32" in told["twice"][0]
    assert json.loads(json.dumps(told)) == told
