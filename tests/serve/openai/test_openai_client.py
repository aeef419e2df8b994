"""OpenAI's own client against a real server, streaming and not: the shapes are what it takes them
for."""

import json

import openai
import pytest

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 57+86?"}]


def told(text, messages, count):
    """What the fake loop says to them in `count` tokens."""
    return text.decode(text.chat(messages)[:count])


def test_chat(client, text):
    answer = client.chat.completions.create(model="fake", messages=CHAT, max_tokens=20)
    choice = answer.choices[0]
    assert choice.message.content == told(text, CHAT, 20) and choice.message.role == "assistant"
    assert choice.finish_reason == "length" and answer.object == "chat.completion" and answer.model == "fake"
    prompt = len(text.chat(CHAT))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 20)
    assert answer.usage.total_tokens == prompt + 20 and answer.usage.prompt_tokens_details.cached_tokens == 1
    figures = answer.usage.mpsplit
    expected = {"time_to_first_token_s": 0.01, "tok_s": 50.0, "bytes_between_ranks": 20480, "cached_tokens": 1}
    assert figures == expected | {"left_out": 0}


def test_chat_streams_the_same(client, text):
    chunks = list(client.chat.completions.create(
        model="fake", messages=CHAT, max_tokens=20, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    *spoken, closing, last = chunks
    assert spoken[0].choices[0].delta.role == "assistant" and len(spoken) > 10
    assert "".join(chunk.choices[0].delta.content for chunk in spoken) == told(text, CHAT, 20)
    assert closing.choices[0].finish_reason == "length" and all(c.choices[0].finish_reason is None for c in spoken)
    assert last.choices == [] and last.usage.completion_tokens == 20 and spoken[0].usage is None
    assert len({chunk.id for chunk in chunks}) == 1 and last.object == "chat.completion.chunk"


def test_several_answers_have_seeds_of_their_own(client, server):
    answer = client.chat.completions.create(model="fake", messages=CHAT, max_tokens=8, n=3, temperature=1, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert [request.sampling.seed for request in server[1].loop.requests[-3:]] == [5, 6, 7]
    chunks = client.chat.completions.create(
        model="fake", messages=CHAT, max_tokens=8, n=3, temperature=1, seed=5, stream=True
    )
    texts = ["", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]
    assert answer.usage.prompt_tokens * 3 > answer.usage.prompt_tokens and answer.usage.completion_tokens == 24


def test_sampling_is_what_was_asked_for(client, server):
    client.chat.completions.create(
        model="fake",
        messages=CHAT,
        max_completion_tokens=3,
        temperature=0.7,
        top_p=0.9,
        seed=-1,
        stop=["b", "c"],
        user="me",
        extra_body={"top_k": 7, "repetition_penalty": 1.5, "penalty_window": 64, "ignore_eos": True},
    )
    request = server[1].loop.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 7)
    assert (sampling.repetition_penalty, sampling.penalty_window, sampling.seed) == (1.5, 64, 2**63 - 1)
    assert request.stops == ("b", "c") and request.max_new_tokens == 3 and request.ignore_eos
    assert request.owner == "user me" and request.logprobs is None and request.grammar is None


def test_stop_strings(client, text):
    answer = client.completions.create(model="fake", prompt="one two three", max_tokens=50, stop=" three")
    assert answer.choices[0].text == "one two" and answer.choices[0].finish_reason == "stop"


def test_the_probabilities_of_a_chat(client, text):
    call = dict(model="fake", messages=CHAT, max_tokens=6, logprobs=True, top_logprobs=2)
    content = client.chat.completions.create(**call).choices[0].logprobs.content
    assert len(content) == 6 and content[0].token == "<s>"
    assert all(token.logprob == -0.6931 and len(token.top_logprobs) == 2 for token in content)
    chunks = client.chat.completions.create(**call, stream=True)
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == content
    assert bytes(byte for token in content for byte in token.bytes).decode() == "<s>Be brief"


def test_the_probabilities_of_a_completion(client):
    told = client.completions.create(model="fake", prompt="one two", max_tokens=4, logprobs=1).choices[0]
    assert len(told.logprobs.tokens) == len(told.logprobs.token_logprobs) == len(told.logprobs.text_offset) == 4
    assert told.logprobs.text_offset[0] == 0 and told.logprobs.text_offset[1] == len(told.logprobs.tokens[0])


def test_completions_of_every_kind_of_prompt(client, text):
    ids = text.raw("one two")
    for prompt in ("one two", ids):
        assert client.completions.create(model="fake", prompt=prompt).choices[0].text == text.decode((ids * 16)[:16])
    for prompts in (["one two", "three"], [ids, text.raw("three")]):
        answer = client.completions.create(model="fake", prompt=prompts, max_tokens=3, n=2)
        first, second = text.decode(ids[:3]), text.decode((text.raw("three") * 3)[:3])
        assert [choice.text for choice in answer.choices] == [first, first, second, second]
        assert answer.usage.prompt_tokens == len(ids) + len(text.raw("three")) and answer.usage.completion_tokens == 12


@pytest.mark.parametrize("stream", [False, True])
def test_echo(client, stream):
    told = client.completions.create(model="fake", prompt="one two", max_tokens=3, echo=True, stream=stream)
    text = "".join(chunk.choices[0].text for chunk in told) if stream else told.choices[0].text
    assert text.startswith("one two") and len(text) > len("one two")


def test_answers_in_json(client, server):
    schema = {
        "type": "object",
        "properties": {"day": {"enum": ["Monday"]}},
        "required": ["day"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "day", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(model="fake", messages=CHAT, max_tokens=60, response_format=response_format)
    assert json.loads(answer.choices[0].message.content) == {"day": "Monday"}
    assert answer.choices[0].finish_reason == "stop"
    response_format = {"type": "json_object"}
    answer = client.chat.completions.create(model="fake", messages=CHAT, max_tokens=20, response_format=response_format)
    assert answer.choices[0].message.content.startswith("{")
    bad = {"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "banana"}}}
    with pytest.raises(openai.BadRequestError, match="JSON schema cannot be used: Invalid type: banana"):
        client.chat.completions.create(model="fake", messages=CHAT, response_format=bad)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "mpsplit"
    with pytest.raises(openai.NotFoundError, match="this server has fake"):
        client.models.retrieve("gpt-9")


def test_parts_of_messages_and_the_developer(client, text):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "57+86?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = client.chat.completions.create(model="fake", messages=messages, max_tokens=20)
    assert answer.choices[0].message.content == told(text, CHAT, 20)
