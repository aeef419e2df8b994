"""Embeddings through the official client, and scores of documents, over formulas of ids."""

import base64
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from tests.networks import LETTERS
from tests.serve.served import client_of
from tests.serve.text_server import LONGEST, SETTINGS, SIZE, text_served, vector_of


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with text_served(tmp_path_factory.mktemp("encoder"), "embed") as running:
        yield running


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    with text_served(tmp_path_factory.mktemp("scorer"), "rerank") as running:
        yield running


@pytest.fixture
def client(server):
    with client_of(server[0]) as client:
        yield client


def test_texts_in_their_order_with_usage(server, client):
    texts = ["a cat", "two dogs", "A CAT"]
    reply = client.embeddings.create(model="reader", input=texts)  # which asks for base64 by itself
    assert [item.index for item in reply.data] == [0, 1, 2] and reply.object == "list" and reply.model == "reader"
    for item, text in zip(reply.data, texts, strict=True):
        np.testing.assert_allclose(item.embedding, vector_of(server[1], text), rtol=1e-6)
    tokens = 2 * (2 + 4) + 2 + 7  # [CLS], letters, [SEP]
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (tokens, tokens)
    one = client.embeddings.create(model="reader", input="a cat", encoding_format="float")
    assert one.data[0].embedding == pytest.approx(reply.data[0].embedding)


def test_base64_is_float32(server):
    reply = httpx.post(f"{server[0]}/v1/embeddings", json={"input": "a cat", "encoding_format": "base64"}).json()
    packed = base64.b64decode(reply["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(packed, "<f4"), vector_of(server[1], "a cat"))


def test_token_ids_are_taken_as_they_stand(server, client):
    address, _ = server
    ids = httpx.post(f"{address}/tokenize", json={"prompt": "a cat"}).json()
    assert ids["count"] == len(ids["tokens"]) == 6 and ids["max_model_len"] == SETTINGS.longest
    for given in (ids["tokens"], [ids["tokens"], [7]]):
        reply = client.embeddings.create(model="reader", input=given)
        assert reply.data[0].embedding == pytest.approx(vector_of(server[1], "a cat").tolist())
    assert len(reply.data) == 2 and reply.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    "body, message",
    [
        ({"input": ["fine", "a" * 23]}, "input 1: the text has 25 tokens, the model takes 1 to 24"),
        ({"input": [[5] * 25]}, "input 0: the text has 25 tokens, the model takes 1 to 24"),
        ({"input": [5, len(LETTERS)]}, f"input 0 has token {len(LETTERS)}, which is not in the vocabulary"),
        ({"input": ["a", ""]}, "input 1 is empty"),
        ({"input": ""}, "input 0 is empty"),
        ({"input": []}, "input: "),
        ({"input": "a", "dimensions": 2}, f"dimensions 2: this model gives {SIZE}"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format: "),
        ({"input": "a", "colour": "red"}, "Unrecognized request argument supplied: colour"),
        ({"input": ["a"] * 2049}, "2049 texts in one request, at most 2048 are taken"),
    ],
)
def test_what_is_refused(server, body, message):
    reply = httpx.post(f"{server[0]}/v1/embeddings", json=body)
    assert reply.status_code == 400 and message in reply.json()["error"]["message"], reply.text
    assert httpx.post(f"{server[0]}/v1/embeddings", json={"input": "a", "dimensions": SIZE}).status_code == 200


def test_what_this_model_is_not_for(server, scorer, client):
    with pytest.raises(openai.BadRequestError, match="predicts no tokens; ask /v1/embeddings"):
        client.chat.completions.create(model="reader", messages=[{"role": "user", "content": "a"}])
    said = httpx.post(f"{server[0]}/v1/rerank", json={"query": "a", "documents": ["b"]})
    assert said.status_code == 400 and "reader is for /v1/embeddings, not for /v1/rerank" in said.text
    said = httpx.post(f"{scorer[0]}/v1/embeddings", json={"input": "a"})
    assert said.status_code == 400 and "reader is for /v1/rerank" in said.text
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="another", input="a")


def test_documents_are_ranked(scorer):
    documents = ["xyz", "a cab", {"text": "ab"}, "cab"]
    body = {"query": "abc", "documents": documents, "model": "reader"}
    reply = httpx.post(f"{scorer[0]}/v1/rerank", json=body).json()
    assert [result["index"] for result in reply["results"]] == [1, 2, 3, 0]
    scores = [result["relevance_score"] for result in reply["results"]]
    assert scores[3] == pytest.approx(1 / (1 + np.exp(3))) and scores == sorted(scores, reverse=True)
    assert all("document" not in result for result in reply["results"])
    tokens = 4 * (3 + 3) + 3 + 4 + 2 + 3
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    reply = httpx.post(f"{scorer[0]}/v1/rerank", json=body | {"top_n": 1, "return_documents": True}).json()
    assert [(result["index"], result["document"]["text"]) for result in reply["results"]] == [(1, "a cab")]
    long = httpx.post(f"{scorer[0]}/v1/rerank", json={"query": "a" * 20, "documents": ["b", "b" * 20]})
    assert long.status_code == 400 and f"input 1: the text has 43 tokens, the model takes 1 to {LONGEST}" in long.text


def test_many_at_once_get_their_own(server):
    address, service = server

    def ask(number: int) -> bool:
        texts = [f"{'abcdefgh'[number % 8]} {i}" for i in range(number % 5 + 1)]
        reply = httpx.post(f"{address}/v1/embeddings", json={"input": texts}, timeout=30)
        while reply.status_code == 429:
            reply = httpx.post(f"{address}/v1/embeddings", json={"input": texts}, timeout=30)
        found = [item["embedding"] for item in reply.json()["data"]]
        return np.allclose(found, [vector_of(service, text) for text in texts])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(64)))
    assert not service.tickets and not service.loop.running


def test_health_model_and_figures(server, client):
    address, service = server
    client.embeddings.create(model="reader", input=["a", "b"])
    assert client.models.list().data[0].id == "reader"
    told = httpx.get(f"{address}/v1/models/reader").json()
    assert (told["max_model_len"], told["task"]) == (SETTINGS.longest, "embed")
    for path in ("/health", "/health/ready", "/health/live", "/ranks"):
        assert httpx.get(f"{address}{path}").status_code == 200
    figures = httpx.get(f"{address}/metrics").text
    assert 'mpsplit_requests_total{path="/v1/embeddings",status="200"}' in figures and "mpsplit_texts_total" in figures


def test_keys_and_the_end(tmp_path):
    with text_served(tmp_path, "embed", keys=(b"a key of ours",)) as (address, service):
        assert httpx.post(f"{address}/v1/embeddings", json={"input": "a"}).status_code == 401
        with client_of(address, "a key of ours") as client:
            assert len(client.embeddings.create(model="reader", input="a").data[0].embedding) == SIZE
            service.drain()
            with pytest.raises(openai.InternalServerError, match="about to end"):
                client.embeddings.create(model="reader", input="a")


def test_a_mistake_of_ours_ends_one_request(tmp_path, monkeypatch):
    with text_served(tmp_path, "embed") as (address, service):
        monkeypatch.setattr(service.texts, "embedding", lambda outputs: 1 / 0)
        reply = httpx.post(f"{address}/v1/embeddings", json={"input": "a"})
        assert reply.status_code == 500 and "its log says why, under" in reply.text
        monkeypatch.undo()
        assert httpx.post(f"{address}/v1/embeddings", json={"input": "a"}).status_code == 200
