"""What is not answered, and how that is said: the status, and OpenAI's shape."""

import json
import re

import httpx
import openai
import pytest

from mpsplit.errors import RunError
from mpsplit.serve.http.security import Gate
from mpsplit.serve.openai.answer_shapes import ChatShape
from mpsplit.serve.service.any_service import ServiceLimits
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import at_rest, client_of, served

CHAT = [{"role": "user", "content": "one two"}]
ENDPOINTS = {"chat/completions": {"messages": CHAT}, "completions": {"prompt": "one two"}}


@pytest.fixture
def post(server):
    """What an endpoint says to a body: (status, error, headers)."""
    with httpx.Client(base_url=server[0], timeout=30) as http:

        def post(path, body=None, **options):
            reply = http.post(path, json=body, **options) if body is not None else http.post(path, **options)
            error = reply.json()["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["message"]
            return reply.status_code, error, reply.headers

        yield post


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "wish, param, message",
    [
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_k": -1}, "top_k", "greater than or equal to 0"),
        ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
        ({"presence_penalty": 5}, "presence_penalty", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 9}, "n", "9 answers in one request (prompts times n), at most 8 are given"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"seed": 2**64}, "seed", "less than"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"temprature": 1}, "temprature", "Unrecognized request argument supplied: temprature"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "less than or equal to 100"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "should match pattern"),
        ({"logit_bias": {"5": "much"}}, "logit_bias", "valid number"),
        ({"logit_bias": {"5": 1, "05": 2}}, None, "logit_bias names token 5 twice"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "at most 1024"),
        ({"logit_bias": [5]}, "logit_bias", "valid dictionary"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is missing"),
        ({"model": "gpt-9"}, "model", "there is no such model; this server has fake"),
    ],
)
def test_fields(post, path, wish, param, message):
    status, error, _ = post(f"/v1/{path}", ENDPOINTS[path] | wish)
    assert status == (404 if "model" in wish else 400)
    assert message in error["message"] and (error["param"] or "").split(".")[0] == (param or "")


@pytest.mark.parametrize(
    "path, body, message",
    [
        ("chat/completions", {}, "messages: Field required"),
        ("chat/completions", {"messages": []}, "at least 1"),
        ("chat/completions", {"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ("chat/completions", {"messages": CHAT, "top_logprobs": 2}, "top_logprobs needs logprobs to be true"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'text'"),
        ("chat/completions", {"messages": CHAT * 2000}, "2000 messages, at most 1024 are taken"),
        ("completions", {}, "prompt: Field required"),
        ("completions", {"prompt": []}, "at least 1"),
        ("completions", {"prompt": [1, "x"]}, "prompt"),
        ("completions", {"prompt": [1, -5]}, "prompt"),
        ("completions", {"prompt": [600]}, "not in the vocabulary of 512"),
        ("completions", {"prompt": "one", "echo": True, "logprobs": 1}, "echo with logprobs is not served"),
        ("completions", {"prompt": ["one"] * 9}, "9 answers in one request"),
        ("completions", {"prompt": "one\ud800"}, "must be valid Unicode"),
    ],
)
def test_bodies(post, path, body, message):
    content = json.dumps(body).encode()  # httpx would refuse half a surrogate pair
    status, error, _ = post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert status == 400 and message in error["message"] and error["type"] == "invalid_request_error"


def test_what_changes_nothing_is_ignored(client):
    client.chat.completions.create(
        model="fake",
        messages=CHAT,
        max_tokens=2,
        metadata={"a": "b"},
        service_tier="auto",
        store=False,
        reasoning_effort="low",
        parallel_tool_calls=True,
        logit_bias={},
        modalities=["text"],
    )
    assistant = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    client.chat.completions.create(model="fake", messages=[*CHAT, assistant, *CHAT], max_tokens=2)


def test_what_people_forget_is_named(post):
    for content in (b"", b'{"messages": []}'):
        _, error, _ = post("/v1/chat/completions", content=content)
        assert error["message"] == "send a JSON object, with the header Content-Type: application/json"
    _, error, _ = post("/v1/chat/completions", json={"messages": [{"role": "user"}]})
    assert "content is missing" in error["message"]
    for name in ("", "../s1", "a b"):
        _, error, _ = post("/v1/chat/completions", json={"messages": CHAT, "session_id": name})
        assert error["message"].startswith(f"{name!r} is no name")


def test_an_answer_that_is_sent_back_has_no_blank_more(server):
    talk = [[*CHAT, {"role": "assistant", "content": content}, *CHAT] for content in ("Yes.", " Yes.\n")]
    plain, blank = (httpx.post(f"{server[0]}/tokenize", json={"messages": messages}).json() for messages in talk)
    assert plain["tokens"] == blank["tokens"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"5", b'{"messages": NaN}', b"1" * 10_000, b'{"a": 1e999}'],
)
def test_bodies_that_are_no_json(post, content):
    status, error, _ = post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert status == 400 and error["type"] == "invalid_request_error"


def test_a_body_of_another_kind(post):
    """A page of another site can send text, but not JSON, without asking first."""
    assert post("/v1/chat/completions", content=b'{"messages": []}', headers={"content-type": "text/plain"})[0] == 400


@pytest.mark.parametrize("tokens", [512, 5000])
def test_prompts_too_long(post, tokens):
    for path, body in (("completions", {"prompt": [5] * tokens}), ("completions", {"prompt": "a b" * 10 * tokens})):
        status, error, _ = post(f"/v1/{path}", body)
        assert status == 400 and error["code"] == "context_length_exceeded" and "512" in error["message"]


def test_paths_and_methods(server, post):
    assert post("/v1/fly", {})[0] == 404
    assert post("/v1/models", {})[0] == 405
    assert httpx.get(f"{server[0]}/docs").status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue(text, stream):
    with served(FakeLoop(text, places=1, waiting=1, seconds=0.01)) as (address, service), client_of(address) as client:
        ask = dict(model="fake", messages=CHAT, max_tokens=400, stream=True)
        held = [client.chat.completions.create(**ask) for _ in range(2)]
        assert next(iter(held[0])).choices
        with pytest.raises(openai.RateLimitError, match="requests wait already") as refused:
            client.chat.completions.create(**ask | {"stream": stream})
        assert refused.value.response.headers["retry-after"] == "1" and refused.value.code == "queue_full"
        # of several answers those that were taken are given up
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ask | {"stream": stream, "n": 2})
        for stream in held:
            stream.close()
        assert service.loop.idle() and len(service.loop.requests) == 2


def test_an_ending_server(text):
    with served(FakeLoop(text)) as (address, service), client_of(address) as client:
        service.drain()
        with pytest.raises(openai.APIStatusError, match="about to end") as refused:
            client.chat.completions.create(model="fake", messages=CHAT)
        assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"] == "5"
        assert httpx.get(f"{address}/health").status_code == 503


def test_an_answer_that_fails(client, server):
    server[1].loop.fails = RunError("rank 1 is lost")
    with pytest.raises(openai.InternalServerError, match="the answer cannot go on: rank 1 is lost"):
        client.chat.completions.create(model="fake", messages=CHAT)


def test_an_answer_that_fails_in_the_middle(text):
    with served(FakeLoop(text, seconds=0.01)) as (address, service), client_of(address) as client:
        stream = iter(client.chat.completions.create(model="fake", messages=CHAT, stream=True, max_tokens=400))
        next(stream)
        service.loop.fails = RunError("rank 1 is lost")
        with pytest.raises(openai.APIError, match="rank 1 is lost"):
            list(stream)


def test_an_answer_that_the_server_gives_up(text):
    with served(FakeLoop(text, seconds=0.01)) as (address, service), client_of(address) as client:
        stream = iter(client.chat.completions.create(model="fake", messages=CHAT, stream=True, max_tokens=400))
        next(stream)
        service.cancel_all()
        with pytest.raises(openai.APIError, match="the server ended before the answer did"):
            list(stream)


def number_in(said: str, capsys) -> str:
    """Under which the log has what the client is not told, once and with its traceback."""
    number = re.search("its log says why, under ([0-9a-f]{8})", said)[1]
    log = capsys.readouterr().err
    assert log.count(number) == log.count("Traceback") == 1 and "ZeroDivisionError" in log and "Zero" not in said
    return number


def test_a_failure_of_ours_has_a_number(text, monkeypatch, capsys):
    """Outside the loop: in an endpoint, in a middleware, and where an answer is put into shape."""
    with served(FakeLoop(text)) as (address, service), client_of(address) as client:
        numbers = []
        for owner, name in ((service.loop, "submit"), (Gate, "_keyless"), (ChatShape, "whole")):
            with monkeypatch.context() as patch, pytest.raises(openai.InternalServerError) as told:
                patch.setattr(owner, name, lambda *_: 1 / 0)
                client.chat.completions.create(model="fake", messages=CHAT)
            assert told.value.status_code == 500 and told.value.code == "failed"
            numbers.append(number_in(told.value.message, capsys))
        assert len(set(numbers)) == 3 and at_rest(service)
        assert client.chat.completions.create(model="fake", messages=CHAT)


@pytest.mark.parametrize("name", ("opening", "chunk", "closing"))
def test_a_stream_whose_shaping_fails_ends_with_an_error(text, monkeypatch, capsys, name):
    with served(FakeLoop(text)) as (address, service), client_of(address) as client:
        with monkeypatch.context() as patch, pytest.raises(openai.APIError) as told:
            patch.setattr(ChatShape, name, lambda *_: 1 / 0)
            list(client.chat.completions.create(model="fake", messages=CHAT, stream=True))
        assert told.value.code == "failed" and number_in(told.value.message, capsys)
        assert at_rest(service)
        assert list(client.chat.completions.create(model="fake", messages=CHAT, stream=True))


def test_a_model_without_a_tokenizer():
    with served(FakeLoop(None)) as (address, _), client_of(address) as client:
        answer = client.completions.create(model="fake", prompt=[5, 6, 7], max_tokens=4)
        assert answer.choices[0].token_ids == [5, 6, 7, 5] and answer.choices[0].text == ""
        chunks = client.completions.create(model="fake", prompt=[5, 6, 7], max_tokens=4, stream=True)
        told = [choice.token_ids for chunk in chunks if not (choice := chunk.choices[0]).finish_reason]
        assert sum(told, []) == [5, 6, 7, 5]
        with pytest.raises(openai.BadRequestError, match="has no tokenizer; ask /v1/completions with token ids"):
            client.chat.completions.create(model="fake", messages=CHAT)


def test_answers_are_as_many_as_may_run(text):
    with served(FakeLoop(text), limits=ServiceLimits(answers=2)) as (address, _), client_of(address) as client:
        assert len(client.completions.create(model="fake", prompt=["one", "two"]).choices) == 2
        with pytest.raises(openai.BadRequestError, match="at most 2 are given"):
            client.completions.create(model="fake", prompt=["one", "two", "three"])


def test_a_context_of_our_own(text):
    """Of a prompt and its answer, less than the model's."""
    with served(FakeLoop(text), most_tokens=20) as (address, _), client_of(address) as client:
        answer = client.completions.create(model="fake", prompt=[5] * 12, max_tokens=100)
        assert answer.usage.completion_tokens == 8 and answer.choices[0].finish_reason == "length"
        with pytest.raises(openai.BadRequestError, match="has 20 tokens, the context is 20 tokens"):
            client.completions.create(model="fake", prompt=[5] * 20)
