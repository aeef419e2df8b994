"""A server on a free port that answers until a block is left, and OpenAI's own client for it."""

from __future__ import annotations

import threading
from contextlib import contextmanager

from mpsplit.serve.http.security import allowed_hosts
from mpsplit.serve.http.serving import listen, serving, url
from mpsplit.serve.service.service import Service
from tests.serve.fake_loop import FakeLoop


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


def client_of(address: str, key: str = "none"):
    from openai import OpenAI

    return OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=30)
