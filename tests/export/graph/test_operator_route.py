"""pnnx on this torch reads operators, and gives the package that PyPI's gives of leaf modules."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from mpsplit.comm import Alone
from mpsplit.errors import ConvertError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.native import cpp
from mpsplit.native.third_party import Pin
from mpsplit.package.manifest import FORM
from tests.cases import thorough
from tests.missing import need
from tests.models import EXAMPLE, FAMILIES
from tests.packages import digests, partition_evenly

ALWAYS = [("llama-bias", 2, 1), ("qwen3", 1, 2)]
EACH = [(family, tensor, pipeline) for family in FAMILIES for tensor, pipeline in ((2, 1), (1, 2), (2, 2))]


@pytest.fixture(scope="module")
def operators(tmp_path_factory):
    """tiny-vicuna for two ranks, traced with operators."""
    need("pnnx", "the torch operators")
    out = tmp_path_factory.mktemp("traced") / "operators"
    partition_evenly(EXAMPLE, out, 2, 1, form="operator")
    return out


def manifest_of(package: Path) -> tuple[dict, dict[str, str]]:
    """Without what names the route, and that."""
    manifest = json.loads((package / "manifest.json").read_text())
    return manifest, {key: manifest["tools"].pop(key) for key in (FORM, "pnnx")}


@pytest.mark.seconds(300)
@pytest.mark.parametrize(
    "family, tensor, pipeline", [*ALWAYS, *thorough(*(case for case in EACH if case not in ALWAYS))]
)
def test_both_routes_give_the_same_package(package_of, model_of, tmp_path, family, tensor, pipeline):
    need("pnnx", "the torch operators")
    of_modules = package_of(family, tensor, pipeline)
    of_operators = tmp_path / of_modules.name
    partition_evenly(model_of(family), of_operators, tensor, pipeline, form="operator")
    convert(of_operators, Alone(), find_pnnx(form="operator"))
    one, other = digests(of_modules), digests(of_operators)
    assert [name for name in one | other if one.get(name) != other.get(name)] == ["manifest.json"]
    (one, modules), (other, operators) = map(manifest_of, (of_modules, of_operators))
    assert one == other
    assert modules == {FORM: "module", "pnnx": version("pnnx")}
    assert operators == {FORM: "operator", "pnnx": f"sr-vulkan {Pin.of('pnnx').version}"}


def test_a_library_that_does_not_load_is_told(operators, tmp_path):
    (tmp_path / "lib.so").write_text("no library")
    with pytest.raises(
        ConvertError, match=r"cannot load \S+/lib.so \(.*file too short\); the library must be built on"
    ):
        convert(operators, Alone(), find_pnnx(customop=str(tmp_path / "lib.so")))


def test_an_unknown_operator_is_told(operators):
    """By a library that loads, and defines nothing."""
    version_file = cpp.torch_version()
    assert version_file
    library = version_file.parent / "lib" / "libc10.so"
    with pytest.raises(
        ConvertError, match=rf"not know the operator mpi_extensions::all_reduce; .*\(given: {library}\)"
    ):
        convert(operators, Alone(), find_pnnx(customop=str(library)))
