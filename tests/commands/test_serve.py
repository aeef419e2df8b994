"""`mpsplit serve` where it cannot: one line that says what to do, before anything is loaded."""

import socket

import pytest

from tests.missing import needs
from tests.models import EXAMPLE
from tests.running import refused


@pytest.fixture(scope="module")
def package(package_of):
    return package_of(EXAMPLE, 1, 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "70000"], "--port 70000 is out of range; it must be 0 (any free one) to 65535"),
        (["--max-concurrent", "0"], "--max-concurrent 0 is out of range; it must be at least 1"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 can be reached from other machines, and there is no API key"),
        (["--api-key-file", "none"], "none cannot be read (No such file or directory)"),
        (["--host", "no.such.host.invalid"], "cannot be served"),
    ],
)
def test_arguments(package, arguments, message):
    assert message in refused("serve", package, *arguments, *([] if "--port" in arguments else ["--port", "0"]))


@needs("the engine")
def test_a_cache_that_this_machine_cannot_fill(package):
    printed = refused("serve", package, "--port", "0", "--cache", "400000000")
    assert "a cache of 400000000 tokens takes" in printed and "GiB are left; --cache " in printed
    for absurd in (10**12, 10**21):
        printed = refused("serve", package, "--port", "0", "--cache", absurd)
        assert f"a cache of {absurd} tokens is out of range" in printed


def test_a_port_that_another_has(package):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        printed = refused("serve", package, "--port", port)
    assert f"127.0.0.1 port {port} cannot be served (Address already in use); choose another --port" in printed


def test_what_is_not_installed(package, monkeypatch):
    from mpsplit.cli import build_parser
    from mpsplit.commands import serve
    from mpsplit.errors import RunError

    monkeypatch.setattr(serve, "NEEDED", ("fastapi", "no_such_module"))
    with pytest.raises(
        RunError, match=r"serve needs no_such_module, not installed here; run `pip install 'mpsplit\[serve\]'`"
    ):
        serve.serve_command(build_parser().parse_args(["serve", str(package)]))
