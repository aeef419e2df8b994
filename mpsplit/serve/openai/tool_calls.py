"""Tool calls in an answer's text.

In: pieces of text, the names of the tools on offer. Out: what can be shown, and OpenAI's
`tool_calls`.

How the text was cut into pieces changes nothing. What is no call of a tool on offer, or no JSON, is
text like any other, so an answer without calls comes out as it went in. The formats are those that
models learnt:

    <tool_call>{"name": ..., "arguments": {...}}</tool_call>        Hermes, Qwen, and what our own
                                                                    explanation asks for
    [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]           Mistral
    <|python_tag|>{"name": ..., "parameters": {...}}; ...           Llama 3
    <function=NAME>{...}</function>                                 Llama 3.1, functionary
    {"name": ..., "parameters": {...}}  or a list of them           Llama 3 and Mistral, whose marks
                                                                    are special tokens: no text
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection
from typing import NamedTuple


class Mark(NamedTuple):
    """What stands before and after a call's JSON; `closing` empty where the JSON ends by itself."""

    opening: str
    closing: str


MARKS = (
    Mark("<tool_call>", "</tool_call>"),
    Mark("[TOOL_CALLS]", ""),
    Mark("<|python_tag|>", ""),
    Mark("<function=", "</function>"),
)
BARE = Mark("", "")
OPENING = re.compile("|".join(re.escape(mark.opening) for mark in MARKS))
# with which the JSON of a call may begin
KEYS = ("name", "function", "type", "id", "arguments", "parameters")
BARE_BEGINNINGS = tuple(f'{bracket}"{key}"' for bracket in ("{", "[{") for key in KEYS)


class ToolReader:
    """`push` pieces and show what it gives back; `calls` grows with what is complete; `finish` at
    the end."""

    def __init__(self, names: Collection[str]):
        self.names = frozenset(names)
        self.calls: list[dict] = []
        self._text = ""  # neither shown nor called yet
        # white space held back, for at the ends of what is shown there is none when there are calls
        self._space = ""
        self._shown = False  # something was shown
        self._mark: Mark | None = BARE  # the call that _text begins with, if any
        self._fresh = True  # nothing was shown since the beginning or the last call
        self._inside = False  # of JSON that ends by itself

    def push(self, piece: str) -> str:
        self._text += piece
        if self._inside and "}" not in piece and "]" not in piece:
            return ""
        return self._read(ended=False)

    def finish(self) -> str:
        """What was held back in vain."""
        return self._read(ended=True) + ("" if self.calls else self._space)

    def _read(self, ended: bool) -> str:
        shown = []
        while self._text:
            before = self._text, self._mark
            shown.append(self._read_call(self._mark, ended) if self._mark else self._read_text(ended))
            if (self._text, self._mark) == before:
                break
        return "".join(shown)

    def _read_text(self, ended: bool) -> str:
        """Up to the next mark, or to what may become one."""
        opening = OPENING.search(self._text)
        until = opening.start() if opening else len(self._text) if ended else _possible_mark(self._text)
        words, self._text = self._text[:until], self._text[until:]
        if opening:
            self._mark = next(mark for mark in MARKS if mark.opening == opening[0])
        return self._show(words)

    def _read_call(self, mark: Mark, ended: bool) -> str:
        """The call that the text begins with; nothing while that cannot be told."""
        body, name = self._text[len(mark.opening) :], None
        if mark is BARE:
            body = body.lstrip(" \n\r\t;," if self.calls else " \n\r\t")
            likely = _may_be_bare(body)
        elif mark.opening == "<function=":
            name, closed, body = body.partition(">")
            likely = name in self.names if closed else None if any(n.startswith(name) for n in self.names) else False
        else:
            likely = True
        if likely:
            body = body.lstrip()
            likely = body[0] in "{[" if body else None
        if likely is None and not ended:
            return ""
        if not likely:
            return self._no_call(mark)
        return self._read_json(mark, body, name, ended)

    def _read_json(self, mark: Mark, body: str, name: str | None, ended: bool) -> str:
        body, closed, rest = body.partition(mark.closing) if mark.closing else (body, "", "")
        read = _first_value(body) if closed or not mark.closing else None
        self._inside = read is None and not mark.closing and not ended
        if read is None and not closed and not ended:
            return ""
        value, after = read or (None, "")
        more = mark.closing and after.strip()  # than JSON between the marks
        calls = None if more else self._calls_of(value, name)
        if not calls:
            return self._no_call(mark)
        self.calls += calls
        self._text, self._mark, self._fresh = rest if mark.closing else after, BARE, True
        self._space = self._space if self._shown else ""
        return ""

    def _no_call(self, mark: Mark) -> str:
        """The mark is text; what follows may still have calls."""
        self._text, self._mark = self._text[len(mark.opening) :], None
        return self._show(mark.opening)

    def _show(self, words: str) -> str:
        """`words` without white space before calls and after them; between two words that of before
        the call stays."""
        words = self._space + (words.lstrip() if self._fresh and self.calls else words)
        kept = words.rstrip()
        self._space = words[len(kept) :]
        self._fresh, self._shown = self._fresh and not kept, self._shown or bool(kept)
        return kept

    def _calls_of(self, value: object, name: str | None) -> list[dict] | None:
        """OpenAI's words for one call or a list of them; None where one is none."""
        if name is not None:
            value = {"name": name, "arguments": value}
        values = value if isinstance(value, list) else [value]
        calls = [call for each in values if (call := _call(each, self.names))]
        return calls if len(calls) == len(values) else None


def _call(value: object, names: frozenset[str]) -> dict | None:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # JSON within JSON
        read = _first_value(arguments)
        arguments = read[0] if read and not read[1].strip() else None
    if not isinstance(arguments, dict):
        return None
    try:
        written = json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError):  # 1e999, or as deep as could just be read
        return None
    function = {"name": value["name"], "arguments": written}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON")


# models write line ends into strings
DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)


def _first_value(text: str) -> tuple[object, str] | None:
    """The JSON that the text begins with, and what follows; None where there is none, or
    not yet."""
    try:
        value, end = DECODER.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return None
    return value, text.lstrip()[end:]


def _may_be_bare(body: str) -> bool | None:
    """Whether it begins as a call without a mark does; None where that cannot be told yet."""
    head = "".join(body[:200].split())
    if any(head.startswith(beginning) for beginning in BARE_BEGINNINGS):
        return True
    return None if any(beginning.startswith(head) for beginning in BARE_BEGINNINGS) else False


def _possible_mark(text: str) -> int:
    """Where the last characters begin that may become a mark."""
    longest = max(len(mark.opening) for mark in MARKS)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(mark.opening.startswith(text[start:]) for mark in MARKS):
            return start
    return len(text)
