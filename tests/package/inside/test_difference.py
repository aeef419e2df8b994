"""Two packages differ where they do, and not in names and order."""

import json
import shutil

import numpy as np
import pytest

from mpsplit.package.inside.difference import differences
from mpsplit.package.manifest import FUSED, GRAPH, MANIFEST, File, Manifest
from mpsplit.package.param_text import Layer, Param
from tests.packages import weight_path


@pytest.fixture
def package(package_of):
    return package_of("llama", 2, 1)


@pytest.fixture
def other(package, tmp_path):
    return shutil.copytree(package, tmp_path / "other")


def sign(package):
    """The manifest says what the files have now."""
    data = json.loads((package / MANIFEST).read_text())
    for part in data["ranks"]:
        part["files"] = [vars(File.of(package, package / file["path"])) for file in part["files"]]
    (package / MANIFEST).write_text(json.dumps(data))


def renamed(layer: Layer, interface: set[str]) -> Layer:
    names = {blob: f"other_{blob}" for blob in (*layer.bottoms, *layer.tops) if blob not in interface}
    layer = layer.rename(names)
    return Layer(layer.type, f"new_{layer.name}", layer.bottoms, layer.tops, layer.params)


def test_a_package_is_the_same_as_itself_under_other_names(package, other):
    assert differences(package, package) == []
    for name in (GRAPH, FUSED):
        path = other / "rank-1" / name
        param = Param.load(path)
        read = {blob for layer in param.layers for blob in layer.bottoms}
        interface = {blob for layer in param.layers for blob in layer.tops if layer.type == "Input" or blob not in read}
        layers = [renamed(layer, interface | {"hidden_out"}) for layer in param.layers]
        inputs = [layer for layer in layers if layer.type == "Input"]
        path.write_text(str(Param((*inputs[::-1], *(layer for layer in layers if layer.type != "Input")))))
    sign(other)
    assert differences(package, other) == []


def test_a_changed_weight_is_found_in_its_layer(package, other):
    path = weight_path(other / "rank-0")
    data = np.fromfile(path, np.uint8)
    data[-1] ^= 1  # the last array of the file: the head
    data.tofile(path)
    sign(other)
    assert differences(package, other) == ["rank 0, head: weights 2 of 2 differ"]


def test_a_changed_parameter_is_found_in_its_graph(package, other):
    path = other / "rank-1" / FUSED
    path.write_text(path.read_text().replace("3=0.353", "3=0.354"))
    sign(other)
    (said,) = differences(package, other)
    assert said.startswith("rank 1, fused.param: 3 of ") and "first in layer 0: Attention" in said


def test_facts_rope_and_plan(package, other, package_of):
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["facts"]["window"], manifest["rope"]["scaling"], manifest["model"] = 5, 2.0, "another"
    (other / MANIFEST).write_text(json.dumps(manifest))
    assert differences(package, other) == ["facts: window is 0 and 5", "rope: scaling is 1 and 2"]
    said = differences(package, package_of("llama", 1, 1))
    assert said == ["plan: 2 and 1 ranks", "graphs and weights are not compared: the numbers of ranks differ"]
    assert Manifest.load(package).model != "another"
