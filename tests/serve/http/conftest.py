"""Servers over two ranks as processes of their own."""

from __future__ import annotations

import shutil

import pytest

from tests.models import EXAMPLE
from tests.serve.started_ranks import serving_ranks


@pytest.fixture
def serve(package_of, tmp_path):
    """As serving_ranks gives it, over a copy of tiny-vicuna, for there may be sessions in it."""
    package = shutil.copytree(package_of(EXAMPLE, 2, 1), tmp_path / "package")
    with serving_ranks(package, tmp_path / "meet") as start:
        yield start
