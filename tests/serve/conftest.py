"""A real server on a free port over a loop without a model, or over two ranks with one, and
OpenAI's own client for it."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

from tests.missing import needs
from tests.models import EXAMPLE
from tests.serve.fake_loop import FakeLoop
from tests.serve.real_loop import real_loop
from tests.serve.served import Target, client_of, served


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


REAL = (needs("gloo"), needs("the engine"), pytest.mark.seconds(120))


@pytest.fixture(
    scope="module",
    params=(
        "fake",
        pytest.param("Python", marks=REAL),
        pytest.param("mpsplit-rank", marks=(*REAL, pytest.mark.thorough)),
    ),
)
def target(request, text, tmp_path_factory):
    """(places, waiting, seconds of a token; settings of the Service) -> a Target that answers until
    the block is left: over the loop without a model, or over two ranks of tiny-vicuna, of which the
    other one runs so."""
    follower = request.param

    @contextmanager
    def start(places: int, waiting: int, seconds: float = 0.0, **settings):
        if follower == "fake":
            with served(FakeLoop(text, places, waiting, seconds), **settings) as running:
                yield Target(*running, "/v1/completions", {"prompt": "one two", "max_tokens": 2}, "one")
            return
        made, folder = request.getfixturevalue("package_of")(EXAMPLE, 2, 1), tmp_path_factory.mktemp("real")
        package = shutil.copytree(made, folder / "package")  # there will be sessions in it
        question = [{"role": "user", "content": "What is the capital of Japan?"}]
        with (
            real_loop(package, folder / "store", follower, places, waiting, seconds) as loop,
            served(loop, **settings) as running,
        ):
            yield Target(
                *running, "/v1/chat/completions", {"messages": question, "temperature": 0},
                "The capital of Japan is Tokyo.",
            )  # fmt: skip

    return start
