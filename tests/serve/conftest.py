"""A real server on a free port over a loop without a model, and OpenAI's own client for it."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from mpsplit.export.model.tokenizer_files import copy_tokenizer
from mpsplit.runtime.talk.text import Text
from mpsplit.serve.http.security import allowed_hosts
from mpsplit.serve.http.serving import listen, serving, url
from mpsplit.serve.service.service import Service
from tests.conftest import EXAMPLE
from tests.serve.fake import FakeLoop


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Text:
    """tiny-vicuna's tokenizer and template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    copy_tokenizer(EXAMPLE, folder)
    return Text(folder)


@contextmanager
def served(loop: FakeLoop, **settings):
    """(its address, its Service) of a server that answers until the block is left."""
    sock, address = listen("127.0.0.1", 0)
    hosts = allowed_hosts("127.0.0.1", address, ())
    service = Service(loop, "fake", **{"hosts": hosts, "layers": ({"seed": 0},)} | settings)
    worker = threading.Thread(target=loop.work, args=[service.ending])
    with serving(service, sock):
        worker.start()
        yield url(sock), service
    worker.join()


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


def client_of(address: str, key: str = "none"):
    from openai import OpenAI

    return OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=30)
