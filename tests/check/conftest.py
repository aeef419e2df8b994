"""The shipped model in every kind of weights, converted once for all files of this room."""

import shutil

import pytest

from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.package.stored.recipe import Recipe
from tests.models import EXAMPLE


@pytest.fixture(scope="session")
def stored_as(package_of, tmp_path_factory):
    """(kind, ranks) -> tiny-vicuna, stored so."""

    def make(kind, ranks):
        out = tmp_path_factory.getbasetemp() / f"stored-{kind}-{ranks}"
        if not out.exists():
            shutil.copytree(package_of(EXAMPLE, ranks, 1), out)
            convert(out, Alone(), find_pnnx(), Recipe(Quantisation.named(kind, 32)))
        return out

    return make
