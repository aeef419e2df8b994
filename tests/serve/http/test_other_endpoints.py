"""What is no answer of a model: tokens, figures, ranks, health."""

import re
import socket

import httpx
import openai
import pytest

from mpsplit.serve.http.serving import listen

CHAT = [{"role": "user", "content": "one two"}]


def test_tokens_there_and_back(server, text):
    address, _ = server
    reply = httpx.post(f"{address}/tokenize", json={"prompt": "one two"}).json()
    assert reply == {"tokens": text.raw("one two"), "count": len(text.raw("one two")), "max_model_len": 512}
    reply = httpx.post(f"{address}/tokenize", json={"messages": CHAT}).json()
    assert reply["tokens"] == text.chat(CHAT)
    reply = httpx.post(f"{address}/detokenize", json={"tokens": text.raw("one two")}).json()
    assert reply == {"prompt": "one two"}
    for body in ({}, {"prompt": "one", "messages": CHAT}, {"tokens": [-1]}):
        path = "detokenize" if "tokens" in body else "tokenize"
        assert httpx.post(f"{address}/{path}", json=body).status_code == 400
    assert httpx.post(f"{address}/detokenize", json={"tokens": [2**31 - 1]}).json() == {"prompt": ""}


def test_embeddings_are_refused_plainly(server, client):
    """With a status that OpenAI's clients do not try again, and as the server describes itself."""
    with pytest.raises(openai.BadRequestError, match="fake: a causal language model .* no embeddings") as refused:
        client.embeddings.create(model="fake", input="one")
    assert (refused.value.code, refused.value.param) == ("no_embeddings", "model")
    reply = httpx.get(f"{server[0]}/openapi.json").json()["paths"]["/v1/embeddings"]["post"]["responses"]
    assert "200" not in reply and "serves no embeddings" in reply["400"]["description"]


def test_figures(server, client):
    before = figures(server)
    client.chat.completions.create(model="fake", messages=CHAT, max_tokens=5)
    httpx.post(f"{server[0]}/v1/completions", json={})
    httpx.get(f"{server[0]}/no/such/path?with=a+prompt")
    after = figures(server)
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert grown['mpsplit_requests_total{path="/v1/chat/completions",status="200"}'] == 1
    assert grown['mpsplit_requests_total{path="/v1/completions",status="400"}'] == 1
    assert grown['mpsplit_requests_total{path="other",status="404"}'] == 1
    assert grown['mpsplit_answers_total{finish_reason="length"}'] == 1
    assert grown["mpsplit_new_tokens_total"] == 5 and grown["mpsplit_bytes_between_ranks_total"] == 5 * 1024
    assert grown["mpsplit_time_to_first_token_seconds_count"] == grown["mpsplit_time_per_token_seconds_count"] == 1
    assert after['mpsplit_pages{state="free"}'] == 4 and after["mpsplit_requests_running"] == 0
    assert after['mpsplit_rank_memory_bytes{rank="3"}'] == 2**30
    assert [after[f'mpsplit_rank_straggler{{rank="{rank}"}}'] for rank in range(4)] == [0, 0, 0, 1]
    assert after['mpsplit_layer_seconds_total{kind="linear",rank="0"}'] == 1e-3
    link = '{peer="3",rank="0"}'
    assert after[f"mpsplit_link_bytes_total{link}"] == 4096 and after[f"mpsplit_link_messages_total{link}"] == 2
    assert after[f"mpsplit_link_wait_seconds_count{link}"] == 2
    assert after[f"mpsplit_link_wait_seconds_sum{link}"] == pytest.approx(1.6e-6)
    longest = [after[f'mpsplit_link_wait_seconds_bucket{{le="{le}",peer="3",rank="0"}}'] for le in ("5e-07", "2e-06")]
    assert longest == [0, 2]


def figures(server) -> dict[str, float]:
    reply = httpx.get(f"{server[0]}/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    return {name: float(value) for name, value in re.findall(r"^(mpsplit_\S+) (\S+)$", reply.text, re.M)}


def test_ranks_and_health(server):
    reply = httpx.get(f"{server[0]}/ranks").json()
    assert (
        reply["model"] == "fake"
        and reply["load"]["pages"] == 4
        and [row["rank"] for row in reply["ranks"]] == [0, 1, 2, 3]
    )


def test_health(server):
    """Of the fake loop, whose rank 1 can be late."""
    address, service = server

    def told(of: str = "") -> tuple[int, str]:
        reply = httpx.get(f"{address}/health{of}")
        return reply.status_code, reply.json()["status"]

    assert told() == told("/ready") == told("/live") == (200, "ok")
    try:
        for age, ready, alive in ((6, (503, "stale"), (200, "ok")), (60, (503, "stale"), (503, "stale"))):
            service.loop.step_age = age
            assert told() == told("/ready") == ready and told("/live") == alive
        ranks = httpx.get(f"{address}/health").json()["ranks"]
        assert [(rank["state"], rank["age_s"]) for rank in ranks] == [("ok", 0.1), ("silent", 60)]
    finally:
        service.loop.step_age = 0.0


def test_small_writes_do_not_wait():
    sock, _ = listen("127.0.0.1", 0)
    with sock:
        assert sock.proto == socket.IPPROTO_TCP  # what asyncio goes by
