"""Tool calls out of an answer's text: every format, every cut, and no text that is lost or that
raises."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpsplit.serve.openai.tool_calls import ToolReader

NAMES = ("add", "get_weather")


def read(pieces, names=NAMES):
    """What was shown, and the calls as (name, arguments)."""
    reader = ToolReader(names)
    shown = "".join([*(reader.push(piece) for piece in pieces), reader.finish()])
    assert all(call["type"] == "function" and re.fullmatch("call_[0-9a-f]{24}", call["id"]) for call in reader.calls)
    assert len({call["id"] for call in reader.calls}) == len(reader.calls)
    return shown, [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in reader.calls]


ADD, PARIS = '{"name": "add", "arguments": {"a": 1}}', '{"name": "get_weather", "parameters": {"city": "Paris\n"}}'
BOTH = [("add", {"a": 1}), ("get_weather", {"city": "Paris\n"})]
FORMATS = {
    f"<tool_call>\n{ADD}\n</tool_call>\n<tool_call>\n{PARIS}\n</tool_call>": ("", BOTH),
    f"Let me see.\n\n<tool_call>{ADD}</tool_call>": ("Let me see.", BOTH[:1]),
    f" <tool_call>{ADD}</tool_call> and\n <tool_call>{PARIS}</tool_call> Done. \n": ("and\n Done.", BOTH),
    f"[TOOL_CALLS] [{ADD}, {PARIS}]": ("", BOTH),
    f"[TOOL_CALLS]{ADD}": ("", BOTH[:1]),
    f"<|python_tag|>{ADD}; {PARIS}": ("", BOTH),
    f"<|python_tag|>{PARIS}": ("", BOTH[1:]),
    f"\n {ADD}\n{PARIS}": ("", BOTH),
    f"{PARIS};{ADD}": ("", BOTH[::-1]),
    f" [ {ADD},\n{PARIS}]": ("", BOTH),
    '<function=add>{"a": 1}</function><function=get_weather>{"city": "Paris\n"}</function>': ("", BOTH),
    '{"type": "function", "function": {"name": "add", "parameters": {"a": 1}}}': ("", BOTH[:1]),
    '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>': ("", BOTH[:1]),
    '<tool_call>{"name": "add"}</tool_call>': ("", [("add", {})]),
    f"<tool_call>oops <tool_call>{ADD}</tool_call>": ("<tool_call>oops", BOTH[:1]),
}
TEXTS = (
    "",
    "Hello.\n",
    " 1 < 2 [and] {so on} <tool",
    '{"answer": 42}',
    "[1] is a note; [2] is none",
    "<tool_call>{not json}</tool_call>",
    '<tool_call>{"name": "add", "arguments": {"a": 1}',  # it ended too early
    '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
    f"<tool_call>{ADD} and more</tool_call>",
    '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>',
    '<tool_call>{"name": ["add"]}</tool_call>',
    "the <tool_call> tag",
    "[TOOL_CALLS] []",
    "[TOOL_CALLS] none",
    "<|python_tag|>print(1)",
    '<function=fly>{"a": 1}</function>',
    "<function=add>1</function>",
    f"Here it is: {ADD}",
    '{"name": "fly", "parameters": {}}',
    '{"name": "add", "parameters": {"a": ' + "[" * 5000,
    "<tool_call>" + "[" * 5000 + "]" * 5000 + "</tool_call>",
    f"[{ADD}, 7]",
)


@pytest.mark.parametrize("text", FORMATS)
def test_every_format(text):
    assert read([text]) == FORMATS[text] == read(text)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_stays_as_it_is(text):
    assert read([text]) == (text, []) == read(text)


def test_nothing_is_held_back_without_need():
    reader = ToolReader(NAMES)
    assert [reader.push(piece) for piece in ("A ", "b <to", "ol> [TO", "DO] ", "{x")] == [
        "A",
        " b",
        " <tool>",
        " [TODO]",
        " {x",
    ]
    reader = ToolReader(NAMES)
    assert [reader.push(piece) for piece in ("{", '"an', 'swer": 1')] == ["", '{"an', 'swer": 1']
    reader = ToolReader(NAMES)
    assert [reader.push(piece) for piece in ("<tool_call>", " the", " tag")] == ["", "<tool_call> the", " tag"]
    reader = ToolReader(NAMES)
    for piece in ("<tool_call>", ADD, "</tool_call", ">"):
        assert reader.push(piece) == "" and bool(reader.calls) == (piece == ">")


SCRAPS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "<function=",
        "<function=add>",
        "</function>",
        ADD,
        PARIS,
    ]
    + [
        "add",
        ">",
        "{",
        "}",
        "[",
        "]",
        '"',
        '{"name": "add"',
        ', "arguments": {}',
        ";",
        ",",
        " ",
        "\n",
        "é",
        "\\",
        "1e999",
        "x",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(SCRAPS, max_size=12).map("".join), st.lists(st.integers(0, 200), max_size=6))
@example("<function=add><function=add>{}</function>", [3])
def test_any_text_in_any_cut_says_the_same_and_raises_nothing(text, cuts):
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown, calls = read([text])
    assert read([text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]) == (shown, calls) == read(text)
    if not calls:
        assert shown == text
    assert len(shown) <= len(text)
    assert read([text], names=()) == (text, [])


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ).map(lambda value: {"value": value})
)
def test_arguments_arrive_whole(arguments):
    call = json.dumps({"name": "add", "arguments": arguments})
    assert read([f"[TOOL_CALLS][{call}]"]) == read([call]) == ("", [("add", arguments)])
    if "</tool_call>" not in call:
        assert read([f"<tool_call>{call}</tool_call>"]) == ("", [("add", arguments)])
