"""Tools on offer: the template hears of them, calls come out of the answer, whole and streamed, and
a choice that must be one is."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

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


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Place(Strict):
    row: Literal[7]
    inside: Annotated[list[Place], Field(max_length=1)]


class Move(Strict):
    goal: Place
    stops: Annotated[list[Place], Field(min_length=1, max_length=1)]


class Turn(Strict):
    goal: create_model("Place", column=(Literal[8], ...), __base__=Strict)  # the name of another's part


def as_tool(name: str, schema: dict) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


OLD = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "definitions": {
        "Place": {
            "type": "object",
            "properties": {"column": {"enum": [8]}},
            "required": ["column"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {"goal": {"$ref": "#/definitions/Place"}},
    "required": ["goal"],
    "additionalProperties": False,
}
NESTED = {
    "move": (Move, as_tool("move", Move.model_json_schema())),
    "turn": (Turn, as_tool("turn", Turn.model_json_schema())),
    "old": (Turn, as_tool("old", OLD)),
}


@pytest.mark.parametrize("first", NESTED)
def test_pointers_in_a_tool_begin_at_its_own_root(client, first):
    """Whatever stands beside it: an answer is what the schema of its own tool allows."""
    tools = [tool for _, tool in sorted(NESTED.values(), key=lambda each: each[1]["function"]["name"] != first)]
    for choice in ({"type": "function", "function": {"name": first}}, "required"):
        answer = client.chat.completions.create(**ASK | {"tools": tools, "tool_choice": choice}, max_tokens=300)
        (call,) = answer.choices[0].message.tool_calls
        assert choice == "required" or call.function.name == first
        NESTED[call.function.name][0].model_validate_json(call.function.arguments)


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
    "wish, told",
    [
        ({"tool_choice": {"type": "function", "function": {"name": "swim"}}}, "a tool that is not among tools"),
        ({"tool_choice": "required", "tools": []}, "a tool that is not among tools"),
        ({"tools": [{"type": "function", "function": {"name": "no good"}}]}, "tools.0.function.name: .* pattern"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "banana"}}}],
                "tool_choice": "required",
            },
            "schema cannot be used: Invalid type: banana",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}]},
            "messages.0.tool_calls.0.function: Field required",
        ),
    ],
)
def test_tools_that_cannot_be(client, wish, told):
    with pytest.raises(openai.BadRequestError, match=told):
        client.chat.completions.create(**ASK | wish)
