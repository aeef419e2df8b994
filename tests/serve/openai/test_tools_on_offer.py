"""Tools on offer: the template hears of them, calls come out of the answer, whole and streamed, and
a choice that must be one is."""

import json

import openai
import pytest

from tests.serve.fake_loop import FakeLoop
from tests.serve.served import served

CHAT = [{"role": "user", "content": "What is 1 and 1?"}]
PARAMETERS = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "fly"}},
]
ASK = dict(model="fake", messages=CHAT, tools=TOOLS)


@pytest.fixture(scope="module")
def server(text):
    """With room for explanations of tools."""
    with served(FakeLoop(text, context=2048)) as running:
        yield running


@pytest.fixture
def saying(server, text):
    """Has the loop say a text."""
    loop = server[1].loop

    def say(words: str) -> None:
        loop.script = text.tokenizer.encode(words, add_special_tokens=False).ids

    yield say
    loop.script = []


def test_calls_come_out_of_the_answer(client, saying):
    saying('One moment.\n<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    choice = client.chat.completions.create(**ASK).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content == "One moment."
    (call,) = choice.message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments) == {"a": 1} and call.type == "function"
    spoken, calls, finish = "", [], None
    for chunk in client.chat.completions.create(**ASK, stream=True):
        delta = chunk.choices[0].delta
        spoken, calls = spoken + (delta.content or ""), calls + (delta.tool_calls or [])
        finish = chunk.choices[0].finish_reason or finish
    assert spoken == "One moment." and finish == "tool_calls" and [call.index for call in calls] == [0]
    assert calls[0].function.name == "add" and calls[0].id.startswith("call_")


def test_what_is_no_call_is_text(client, saying):
    saying("One < two")
    choice = client.chat.completions.create(**ASK).choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("One < two", None, "stop")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_call_that_must_be(client, choice):
    answered = client.chat.completions.create(
        **ASK | {"tools": TOOLS[:1], "tool_choice": choice}, max_tokens=100
    ).choices[0]
    assert answered.finish_reason == "tool_calls" and json.loads(answered.message.tool_calls[0].function.arguments) == {
        "a": 1
    }


def test_the_template_hears_of_tools_and_calls(client, server, text, saying):
    saying("ok")
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    talk = [
        *CHAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ]
    client.chat.completions.create(**ASK | {"messages": talk}, extra_body={"max_tokens": 2})
    heard = text.decode(list(server[1].loop.requests[-1].prompt))
    assert '"name": "add"' in heard and "<tool_response>\n2\n</tool_response>" in heard and "Adds." in heard
    client.chat.completions.create(**ASK | {"tool_choice": "none"}, max_tokens=2)
    assert "Adds." not in text.decode(list(server[1].loop.requests[-1].prompt))


@pytest.mark.parametrize(
    "wish",
    [
        {"tool_choice": {"type": "function", "function": {"name": "swim"}}},
        {"tool_choice": "required", "tools": []},
        {"tools": [{"type": "function", "function": {"name": "no good"}}]},
        {
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "banana"}}}],
            "tool_choice": "required",
        },
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}]},
    ],
)
def test_tools_that_cannot_be(client, wish):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**ASK | wish)
