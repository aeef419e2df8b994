"""A server from its first connection to its last.

In: a loop, its Service, a socket that listens. Out: it returns when all is answered.

The calling thread works for the loop, uvicorn has a thread of its own. SIGTERM or SIGINT: no new
requests, the running ones are answered, then all ranks end. A second signal cancels what runs; when
even that does not help within FORCED_SECONDS, because a step hangs, this process leaves without a
word to the other ranks, and they end for that.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from mpsplit.comm import end_all_ranks
from mpsplit.errors import RunError
from mpsplit.serve.http.app import create_app
from mpsplit.serve.http.patience import patient
from mpsplit.serve.service.any_service import AnyService

BACKLOG = 512
KEEP_ALIVE_SECONDS = 30
LAST_WORDS_SECONDS = 10  # for readers that are slow to take what was answered
FAILED_SECONDS = 1  # the same, once the ranks have failed
FORCED_SECONDS = 2
NUMBERS = (signal.SIGINT, signal.SIGTERM)


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


def run(service: AnyService, sock: socket.socket) -> None:
    with serving(service, sock), signals(service):
        service.loop.work(service.ending)


@contextmanager
def serving(service: AnyService, sock: socket.socket) -> Iterator[None]:
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
    except BaseException:
        config.timeout_graceful_shutdown = FAILED_SECONDS
        raise
    finally:
        service.drain()
        server.should_exit = True
        thread.join()
    if not server.started:
        raise RunError("the HTTP server could not start; what stopped it stands above")


@contextmanager
def signals(service: AnyService) -> Iterator[None]:
    """The main thread's, while the block runs. A thread of its own obeys them, for the main one may
    be inside a step that hangs."""
    ours, heard = socket.socketpair()
    ours.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in NUMBERS}
    wakes = signal.set_wakeup_fd(ours.fileno())
    threading.Thread(target=_obey, args=[service, heard], name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()


def _obey(service: AnyService, heard: socket.socket) -> None:
    """Until the other end is closed. A byte is the number of a signal."""
    with heard:
        while number := heard.recv(1):
            if number[0] not in NUMBERS:
                continue
            if service.ending.is_set():
                service.cancel_all()
                force = threading.Timer(FORCED_SECONDS, _leave, [number[0]])
                force.daemon = True
                force.start()
            service.drain()


def _leave(number: int) -> None:
    print(f"mpsplit: a second signal came, and what ran did not end within {FORCED_SECONDS} s", file=sys.stderr)
    end_all_ranks(128 + number)
