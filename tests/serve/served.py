"""A server on a free port that answers until a block is left, and OpenAI's own client for it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from mpsplit.serve.http.security import allowed_hosts
from mpsplit.serve.http.serving import listen, serving, url
from mpsplit.serve.service.service import Service
from tests.serve.fake_loop import FakeLoop
from tests.serve.real_loop import RealLoop


def at_rest(service: Service, seconds: float = 10) -> bool:
    """Whether nothing of any answer is left; the server clears up beside what it sends."""
    ends = time.monotonic() + seconds
    while not (rests := service.loop.idle() and not service.tickets) and time.monotonic() < ends:
        time.sleep(0.01)
    return rests


@dataclass(frozen=True)
class Target:
    """A server, and what it answers to an honest question."""

    address: str
    service: Service
    path: str
    question: dict
    answer: str

    @property
    def loop(self) -> FakeLoop | RealLoop:
        return self.service.loop

    @property
    def cancelled(self) -> int:
        """Answers that were given up, so far."""
        labels = {"finish_reason": "cancelled"}
        return int(self.service.metrics.registry.get_sample_value("mpsplit_answers_total", labels) or 0)

    def lives(self) -> None:
        """Nothing is left of what was, and who asks is answered."""
        assert at_rest(self.service)
        reply = httpx.post(f"{self.address}{self.path}", json=self.question)
        assert reply.status_code == 200, reply.text
        choice = reply.json()["choices"][0]
        assert (choice["text"] if "text" in choice else choice["message"]["content"]).strip() == self.answer


@contextmanager
def served(loop: FakeLoop | RealLoop, **settings):
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
