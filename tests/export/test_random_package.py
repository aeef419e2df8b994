"""Models with weights that mean nothing: of the sizes they are named for, and made once."""

import pytest

from mpsplit.errors import ModelError
from mpsplit.export import random_package
from mpsplit.export.model.model_source import read_config
from mpsplit.export.model.named_shapes import SHAPES, Shape, find_shape
from mpsplit.package.manifest import GRAPH, Manifest
from mpsplit.package.param_text import Param
from mpsplit.package.stored.quantisation import Quantisation, kind_of
from mpsplit.plan.model_facts import ModelFacts

TINY = Shape("llama", 64, 128, 2, 8, 4, 131)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(random_package, "folder", lambda: tmp_path)
    return tmp_path


def test_a_checkpoint_of_the_shape(monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    model = random_package.random_checkpoint("tiny")
    facts = ModelFacts.from_config(read_config(model))
    assert (facts.hidden, facts.mlp, facts.layers, facts.kv_heads, facts.vocabulary) == (64, 128, 2, 4, 131)
    written = (model / "model-layer-1.safetensors").stat().st_mtime_ns
    random_package.random_checkpoint("tiny")
    assert (model / "model-layer-1.safetensors").stat().st_mtime_ns == written
    monkeypatch.setitem(SHAPES, "tiny", Shape("llama", 64, 128, 1, 8, 4, 131))
    assert not (random_package.random_checkpoint("tiny") / "model-layer-1.safetensors").exists()


@pytest.mark.parametrize("how, kind", [(Quantisation(), "f32"), (Quantisation.named("q4", 32), "q4")])
def test_a_package_of_the_shape(monkeypatch, cache, how, kind):
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    path = random_package.package_path("tiny", 2, how)
    old = cache / f"{path.name[:-8]}00000000"
    old.mkdir()
    random_package._make_package("tiny", 2, how, path)
    assert Manifest.load(path).plan.ranks == 2 and Manifest.load(path).model == "tiny"
    assert kind_of(Param.load(path / "rank-1" / GRAPH)) == kind
    assert not old.exists() and not list(cache.glob(".*"))


def test_a_shape_nobody_knows():
    with pytest.raises(ModelError, match="there is no shape llama-9b; there are llama-15m, "):
        find_shape("llama-9b")
