"""Who may call, from where, and what is told of them."""

import logging

import httpx
import openai
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.runtime.loop.token_loop import TokenLoop
from mpsplit.serve.http.security import allowed_hosts, read_keys
from tests.loops import TableEngine
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import client_of, served

CHAT = [{"role": "user", "content": "a secret question"}]
KEYS = (b"first-key-of-two", b"second-key-of-two")


@pytest.fixture(scope="module")
def guarded(text):
    with served(FakeLoop(text), keys=KEYS) as running:
        yield running


@pytest.mark.parametrize("key", KEYS)
def test_a_key_opens(guarded, key):
    with client_of(guarded[0], key.decode()) as client:
        client.chat.completions.create(model="fake", messages=CHAT, max_tokens=2, user="another")
    assert guarded[1].loop.requests[-1].owner == f"key {KEYS.index(key)}"  # whatever name it gives


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic first-key-of-two", "Bearer first-key-of-tw", "Bearer \xe4"],
)
def test_nothing_opens_without_one(guarded, authorization):
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    with httpx.Client(base_url=guarded[0], headers=headers) as http:
        for path in ("/v1/models", "/v1/models/fake", "/metrics", "/ranks", "/openapi.json", "/nothing"):
            reply = http.get(path)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["code"] == "invalid_api_key"
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
            assert http.post(path, json={}).status_code == 401
        assert http.get("/health").status_code == http.get("/").status_code == 200


@pytest.mark.parametrize("shared", [False, True])
def test_a_key_learns_nothing_of_anothers_prompts(text, shared):
    """Neither of whole pages of the cache nor of single tokens; its own it finds."""
    loop = TokenLoop(TableEngine(), Alone(), text)
    loop.reserve(2000)
    with served(loop, keys=KEYS, share_prefixes=shared) as (address, _):

        def cached(key: bytes, prompt: list[int]) -> int:
            with client_of(address, key.decode()) as client:
                usage = client.completions.create(model="fake", prompt=prompt, max_tokens=1).usage
            assert usage.mpsplit["cached_tokens"] == usage.prompt_tokens_details.cached_tokens
            return usage.prompt_tokens_details.cached_tokens

        for first, count in enumerate((5, 9, 32, 64)):
            secret = [first, *range(20, 19 + count)]
            assert cached(KEYS[0], [*secret, 1]) == 0
            assert cached(KEYS[1], [*secret, 2]) == (count if shared else 0)
            assert cached(KEYS[0], [*secret, 3]) == count


def test_openais_client_understands(guarded):
    with client_of(guarded[0], "wrong") as client, pytest.raises(openai.AuthenticationError, match="valid API key"):
        client.models.list()


@pytest.mark.parametrize(
    "host, origin, allowed",
    [
        ("localhost:8000", None, True),
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("[::1]:8000", None, True),
        ("LocalHost", "http://localhost", True),
        ("evil.example", None, False),
        ("localhost.evil.example", None, False),
        ("", None, False),
        ("[", None, False),
        ("localhost", "https://evil.example", False),
        ("localhost", "null", False),
    ],
)
def test_other_sites_are_kept_out(server, host, origin, allowed):
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    reply = httpx.get(f"{server[0]}/v1/models", headers=headers)
    assert reply.status_code == (200 if allowed else 403)
    assert not [name for name in reply.headers if name.startswith("access-control")]
    if not allowed:
        assert reply.json()["error"]["code"] == "host_not_allowed"


def test_no_other_site_may_ask_in_advance(server):
    reply = httpx.options(
        f"{server[0]}/v1/models", headers={"Origin": "http://localhost:3000", "Access-Control-Request-Method": "GET"}
    )
    assert reply.status_code == 405 and not [name for name in reply.headers if name.startswith("access-control")]


def test_open_to_others_only_with_a_key():
    with pytest.raises(RunError, match="--host 0.0.0.0 can be reached from other machines.*--api-key-file"):
        allowed_hosts("0.0.0.0", "0.0.0.0", ())
    assert allowed_hosts("0.0.0.0", "0.0.0.0", KEYS) is None
    assert "here.local" in allowed_hosts("here.local", "127.0.1.1", ())


def test_keys_of_a_file_and_of_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    monkeypatch.delenv("MPSPLIT_API_KEY", raising=False)
    assert read_keys(None) == ()
    monkeypatch.setenv("MPSPLIT_API_KEY", "from-the-environment")
    assert read_keys(None) == (b"from-the-environment",)
    file.write_bytes(b"one-key-of-two\r\n\n  other-key-of-two \n")
    assert read_keys(file) == (b"one-key-of-two", b"other-key-of-two")
    with pytest.raises(RunError, match="cannot be read"):
        read_keys(tmp_path / "none")
    for content, message in ((b"\n", "holds no key"), (b"short\n", "shorter than 8 bytes")):
        file.write_bytes(content)
        with pytest.raises(RunError, match=message):
            read_keys(file)


def test_nothing_of_a_request_is_logged(guarded, server):
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    root, handler = logging.getLogger(), Lines()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with client_of(guarded[0], KEYS[0].decode()) as client:
            client.chat.completions.create(model="fake", messages=CHAT, max_tokens=2)
        httpx.post(f"{server[0]}/v1/completions", json={"prompt": "a secret question", "secret": 1})
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    ours = [line for line in lines if "secret" in line or KEYS[0].decode() in line]
    # OpenAI's client logs what it sends
    assert not [line for line in ours if "Request options" not in line]


def test_the_page_runs_nothing_but_its_own(server):
    reply = httpx.get(f"{server[0]}/")
    policy = reply.headers["content-security-policy"]
    assert reply.headers["content-type"].startswith("text/html") and "default-src 'none'" in policy
    assert "unsafe" not in policy and policy.count("'sha256-") == 2
    page = reply.text
    assert "http://" not in page and "https://" not in page and " on" + "click" not in page and " style=" not in page
