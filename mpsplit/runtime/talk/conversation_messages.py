"""A conversation as a template wants it.

In: OpenAI's messages and tools. Out: messages whose contents are text, for a template that knows
tools, or for one that knows only who says what.

To the latter tools are explained in a system message and called in the words of Hermes, which Qwen
and many others learnt.
"""

from __future__ import annotations

import json
from contextlib import suppress

from mpsplit.errors import RunError

EXPLANATION = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def with_contents(messages: list[dict]) -> list[dict]:
    """Calls' arguments as objects, which templates write as JSON themselves, and contents as one
    text."""
    return [
        message
        | {"content": _text(message.get("content"))}
        | ({"tool_calls": [_with_object(call) for call in message["tool_calls"]]} if message.get("tool_calls") else {})
        for message in messages
    ]


def _text(content: str | list[dict] | None) -> str:
    if isinstance(content, list):
        if other := [part["type"] for part in content if part["type"] != "text"]:
            raise RunError(f"a message has content of type {other[0]}; this model reads text only")
        return "".join(part["text"] for part in content)
    return content or ""


def _with_object(call: dict) -> dict:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return call | {"function": function | {"arguments": arguments}}


def in_words(messages: list[dict], tools: list[dict] | None) -> list[dict]:
    """The same with calls and their results as text of the assistant and the user, and the tools
    explained at the beginning."""
    plain: list[dict] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1].get("results"):
                plain[-1]["content"] += "\n" + result
            else:
                plain.append({"role": "user", "content": result, "results": True})
        else:
            calls = [_call(call["function"]) for call in message.get("tool_calls", ())]
            plain.append({"role": role, "content": "\n".join(filter(None, [content, *calls]))})
    if not tools:
        return plain
    explanation = EXPLANATION.format("\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if plain and plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{plain[0]['content']}\n\n{explanation}"}, *plain[1:]]
    return [{"role": "system", "content": explanation}, *plain]


def _call(function: dict) -> str:
    called = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"<tool_call>\n{called}\n</tool_call>"
