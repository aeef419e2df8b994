"""Prompts beyond the context that keep their first tokens and their last: who may ask for it, and
what the client is told."""

import openai
import pytest

from mpsplit.runtime.talk.answer_settings import FIRST
from tests.serve.fake_loop import FakeLoop
from tests.serve.served import client_of, served

CONTEXT = 512
LONG = [5 + i % 400 for i in range(5000)]
SLIDES = {"when_full": "slide"}


def kept(prompt, most):
    return tuple(prompt[:FIRST] + prompt[FIRST - most :])


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_slides(client, server, stream):
    streaming = dict(stream=True, stream_options={"include_usage": True}) if stream else {}
    answer = client.completions.create(model="fake", prompt=LONG, max_tokens=100, extra_body=SLIDES, **streaming)
    usage = (list(answer)[-1] if stream else answer).usage
    assert server[1].loop.requests[-1].prompt == kept(LONG, CONTEXT - 100)
    assert usage.mpsplit["left_out"] == len(LONG) - usage.prompt_tokens == len(LONG) - (CONTEXT - 100)
    assert usage.completion_tokens == 100


def test_prompts_count_once_however_many_answers_they_have(client, server):
    prompts = [LONG, LONG[:7], LONG[:600]]
    usage = client.completions.create(model="fake", prompt=prompts, max_tokens=12, n=2, extra_body=SLIDES).usage
    assert usage.mpsplit["left_out"] == 5000 - 500 + 600 - 500 and usage.prompt_tokens == 500 + 7 + 500
    lengths = [len(request.prompt) for request in server[1].loop.requests[-6:]]
    assert lengths == [500, 500, 7, 7, 500, 500]


def test_a_server_that_slides_within_a_context_of_its_own(text):
    layers = ({"when_full": "slide", "seed": 0},)
    with served(FakeLoop(text), layers=layers, most_tokens=200) as (address, service), client_of(address) as client:
        client.completions.create(model="fake", prompt=LONG, max_tokens=150)
        # an answer is given half of the context at most
        assert len(service.loop.requests[-1].prompt) == 100
        # more characters than the context could ever hold
        talk = [{"role": "user", "content": "one two " * 5000}]
        ids = tuple(text.chat(talk))
        usage = client.chat.completions.create(model="fake", messages=talk).usage
        # nobody said how long the answer is to be: it has the room of a short one
        assert service.loop.requests[-1].prompt == ids[:FIRST] + ids[FIRST - 136 :]
        assert usage.mpsplit["left_out"] == len(ids) - 136 and usage.completion_tokens == 64
        with pytest.raises(openai.BadRequestError, match="the prompt has 5000 tokens, the context is 200 tokens"):
            client.completions.create(model="fake", prompt=LONG, extra_body={"when_full": "refuse"})


def test_what_fits_stays_whole(client, server):
    """Also in a chat, where an answer may fill the context."""
    client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}], extra_body=SLIDES)
    assert server[1].loop.requests[-1].max_new_tokens > CONTEXT // 2
    client.completions.create(model="fake", prompt=LONG[: CONTEXT - 16], extra_body=SLIDES)
    assert len(server[1].loop.requests[-1].prompt) == CONTEXT - 16


def test_who_is_refused_hears_of_the_other_choice(client):
    for wish in ({}, {"when_full": "refuse"}):
        with pytest.raises(openai.BadRequestError, match='shorten it, or send "when_full": "slide"') as refused:
            client.completions.create(model="fake", prompt=LONG, extra_body=wish)
        assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="'refuse' or 'slide'"):
        client.completions.create(model="fake", prompt=LONG, extra_body={"when_full": "glide"})
