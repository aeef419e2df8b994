"""Clients that mean no good, or vanish: the server lives, others are answered, every place is given
back. Over a loop without a model, and over two real ranks."""

import contextlib
import json
import random
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from mpsplit.errors import RunError
from mpsplit.runtime.choose.lexicon import Lexicon
from mpsplit.serve.service.any_service import ServiceLimits
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import at_rest, client_of, served

PATH = "/v1/completions"
MB = 10**6


@pytest.fixture(scope="module")
def slow(target):
    """Its answers take seconds, and its patience does not."""
    limits = ServiceLimits(head_seconds=0.5, body_seconds=0.5, connections=24)
    with target(places=2, waiting=4, seconds=0.01, limits=limits) as running:
        yield running


@pytest.fixture
def raw(slow):
    """Opens connections to it."""
    with contextlib.ExitStack() as stack:
        parts = urlsplit(slow.address)
        yield lambda: stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=20))


def head(length: int | None = None, **more: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def asked(**wishes) -> bytes:
    body = json.dumps({"prompt": "one two three", "max_tokens": 400, "ignore_eos": True} | wishes).encode()
    return head(len(body)) + body


def until_closed(connection: socket.socket) -> bytes:
    """All that it says before it hangs up."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            received += data
    return received


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\x16\x03\x01" * 50,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * MB + b"\r\n\r\n",
        head(None, Transfer_Encoding="chunked") + b"zz\r\n",
        head(5, Transfer_Encoding="chunked"),
        head(None, Content_Length="-5"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_garbage(slow, raw, data):
    connection = raw()
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
    assert b" 200 OK" not in until_closed(connection)
    slow.lives()


@pytest.mark.parametrize("begun", [b"", b"POST /v1/comp", head(50)[:-2]])
def test_half_a_head(slow, raw, begun):
    connections = [raw() for _ in range(3)]
    for connection in connections:
        connection.sendall(begun)
    slow.lives()  # others do not wait for it
    assert all(until_closed(connection) == b"" for connection in connections)


@pytest.mark.parametrize("length", [50, None])
def test_half_a_body(slow, raw, length):
    connection = raw()
    connection.sendall(head(length, **{} if length else {"Transfer_Encoding": "chunked"}) + b"5\r\n{")
    slow.lives()
    assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    slow.lives()


def test_a_hundred_megabytes(slow, raw):
    """Said before, the answer comes at once; not said before, as soon as they are too many. What
    follows is thrown away."""
    connection = raw()
    connection.sendall(head(100 * MB))
    assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection = raw()
    piece = b"%x\r\n%s\r\n" % (MB, b" " * MB)
    with contextlib.suppress(ConnectionError):
        connection.sendall(head(None, Transfer_Encoding="chunked"))
        for _ in range(100):
            connection.sendall(piece)
    assert until_closed(connection).startswith(b"HTTP/1.1 413 ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB
    slow.lives()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 4])
def test_who_leaves_gives_up_the_place(slow, raw, stream, n):
    """At once: the answers would have taken four seconds. With four some wait, and leave
    the queue."""
    loop, before = slow.loop, slow.cancelled
    connection = raw()
    taken = len(loop.requests)
    connection.sendall(asked(stream=stream, n=n))
    if stream:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    while len(loop.requests) < taken + n:
        pass
    connection.close()
    assert loop.idle() and slow.cancelled == before + n
    slow.lives()


def test_who_leaves_before_the_body_is_whole(slow, raw):
    taken = len(slow.loop.requests)
    connection = raw()
    connection.sendall(asked()[:-5])
    connection.close()
    slow.lives()
    assert len(slow.loop.requests) == taken + 1


def test_a_reader_who_does_not_read(slow, raw):
    connection = raw()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.sendall(asked(stream=True, logprobs=5))
    slow.lives()
    connection.close()


def test_schemas_are_read_one_by_one_and_not_for_those_who_left(slow, raw, monkeypatch):
    begun, go_on = [], threading.Semaphore(0)

    def takes_long(lexicon, schema):
        begun.append(schema["title"])
        go_on.acquire()
        raise RunError("the JSON schema cannot be used: it is a test")

    monkeypatch.setattr(Lexicon, "grammar", takes_long)
    connections = [raw() for _ in range(4)]
    for number, connection in enumerate(connections):
        schema = {"name": "a", "schema": {"title": number}}
        connection.sendall(asked(response_format={"type": "json_schema", "json_schema": schema}))
        while not begun:
            time.sleep(0.01)
    slow.lives()  # which others are not kept from
    for connection in connections[1:3]:
        connection.close()
    go_on.release(4)
    assert all(connections[number].recv(65536).startswith(b"HTTP/1.1 400 ") for number in (0, 3))
    assert begun == [0, 3]


def test_more_connections_than_are_taken(slow, raw):
    held = [raw() for _ in range(30)]
    last = raw()
    last.sendall(asked(max_tokens=1))
    assert last.recv(65536).startswith(b"HTTP/1.1 503 ")
    for connection in held:
        connection.close()
    slow.lives()


def test_many_clients_some_of_whom_leave(text):
    """200 requests from 16 clients: whoever stays gets the right answer, and nothing is left
    behind."""
    threads = threading.active_count()
    with served(FakeLoop(text, places=8, waiting=200, seconds=0.001)) as (address, service):

        def ask(number: int) -> bool:
            chance = random.Random(number)
            ids, count = [5 + number, 6, 7 + number % 9], chance.randrange(5, 60)
            client = clients[number % 16]
            stream = client.completions.create(model="fake", prompt=ids, max_tokens=count, stream=True)
            if chance.random() < 0.4:
                for _ in zip(range(chance.randrange(4)), stream, strict=False):
                    continue
                stream.close()
                return True
            received = "".join(chunk.choices[0].text for chunk in stream)
            return received == text.decode((ids * count)[:count])

        clients = [client_of(address) for _ in range(16)]
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(ask, range(200)))
        assert at_rest(service) and len(service.loop.requests) == 200
        for client in clients:
            client.close()
    while threading.active_count() > threads:  # of the pool, which ends by itself
        time.sleep(0.05)
