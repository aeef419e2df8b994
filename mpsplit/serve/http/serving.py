"""A server from its first connection to its last.

In: a loop, its Service, a socket that listens. Out: it returns when all is answered.

The calling thread works for the loop, uvicorn has a thread of its own. SIGTERM or SIGINT: no new
requests, the running ones are answered, then all ranks end; a second signal cancels what runs.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from mpsplit.errors import RunError
from mpsplit.serve.http.app import create_app
from mpsplit.serve.http.patience import patient
from mpsplit.serve.service.service import Service

BACKLOG = 512
KEEP_ALIVE_SECONDS = 30
LAST_WORDS_SECONDS = 10  # for readers that are slow to take what was answered


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket, and the address it is bound to. Clients that come before the model is loaded wait
    in its queue."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(
            family, kind, protocol
        )  # which names TCP, or asyncio leaves Nagle's delay on (NOTES: Small writes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as wrong:
        raise RunError(
            f"{host} port {port} cannot be served ({wrong.strerror}); choose another --port, 0 for any free one, or"
            " another --host"
        ) from None
    return sock, str(address[0])


def url(sock: socket.socket) -> str:
    address, port = sock.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def run(service: Service, sock: socket.socket) -> None:
    with serving(service, sock), signals(service):
        service.loop.work(service.ending)


@contextmanager
def serving(service: Service, sock: socket.socket) -> Iterator[None]:
    """Answers connections in a thread while the block runs."""
    config = uvicorn.Config(
        create_app(service),
        http=patient(service.limits.head_seconds),
        loop="asyncio",
        lifespan="off",
        ws="none",
        log_config=None,
        server_header=False,
        proxy_headers=False,  # or whoever calls says who calls
        limit_concurrency=service.limits.connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_WORDS_SECONDS,
    )
    server = uvicorn.Server(config)

    def serve() -> None:
        try:
            server.run([sock])
        finally:
            service.drain()  # without connections there is nothing to work for

    thread = threading.Thread(target=serve, name="http")
    thread.start()
    try:
        yield
    finally:
        service.drain()
        server.should_exit = True
        thread.join()
    if not server.started:
        raise RunError("the HTTP server could not start; what stopped it stands above")


@contextmanager
def signals(service: Service) -> Iterator[None]:
    """The main thread's, while the block runs."""

    def asked_to_end(*_) -> None:
        if (
            service.ending.is_set()
        ):  # by another thread: this one may have been interrupted with the loop's lock in its hand
            threading.Thread(target=service.cancel_all).start()
        service.drain()

    before = {number: signal.signal(number, asked_to_end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
