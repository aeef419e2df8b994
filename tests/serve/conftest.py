"""A real server on a free port over a loop without a model, and OpenAI's own client for it."""

from __future__ import annotations

import pytest

from tests.serve.fake_loop import FakeLoop
from tests.serve.served import client_of, served


@pytest.fixture(scope="module")
def server(text):
    """One for all tests of a file: (address, Service)."""
    with served(FakeLoop(text)) as running:
        yield running


@pytest.fixture
def client(server):
    """OpenAI's, which tries nothing twice."""
    with client_of(server[0]) as client:
        yield client
