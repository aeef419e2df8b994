import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsplit.errors import RunError
from mpsplit.export.model.tokenizer_files import copy_tokenizer
from mpsplit.runtime.talk.text import Stream, Text, load_text
from tests.models import EXAMPLE


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    package = tmp_path_factory.mktemp("package")
    copy_tokenizer(EXAMPLE, package)
    return Text(package)


def stream_out(text, ids, stops=()):
    stream = Stream(text, stops)
    pieces = []
    for token in ids:
        stream.push(token)
        pieces.append(stream.take())
        if stream.stopped:
            break
    stream.finish()
    pieces.append(stream.take())
    return pieces, stream


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_pieces_are_whole_characters_and_add_up(text, words):
    ids = text.tokenizer.encode(words, add_special_tokens=False).ids
    pieces, stream = stream_out(text, ids)
    assert "".join(pieces) == stream.whole == text.decode(ids) == words
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in words


def test_a_character_of_four_bytes_comes_in_one_piece(text):
    ids = text.tokenizer.encode("a🦙b", add_special_tokens=False).ids
    assert len(ids) == 6
    assert [piece for piece in stream_out(text, ids)[0] if piece] == ["a", "🦙", "b"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end(text):
    ids = text.tokenizer.encode("a🦙", add_special_tokens=False).ids[:-1]
    assert "".join(stream_out(text, ids)[0]).startswith("a\ufffd")


@settings(max_examples=200, deadline=None)
@given(st.text("abST\n🦙", max_size=20), st.lists(st.text("abST\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings_never_show(text, words, stops):
    pieces, stream = stream_out(text, text.tokenizer.encode(words, add_special_tokens=False).ids, tuple(stops))
    cuts = [at for stop in stops if (at := words.find(stop)) >= 0]
    assert stream.stopped == bool(cuts)
    shown = "".join(pieces)
    assert words.startswith(shown) and not any(stop in shown for stop in stops)
    if not cuts:
        assert shown == words


def test_the_shipped_template_is_vicunas(text):
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained(EXAMPLE)
    talk = [
        {"role": "user", "content": "What is 1+2?"},
        {"role": "assistant", "content": "3."},
        {"role": "user", "content": "Hi"},
    ]
    for messages in (talk[:1], talk, [{"role": "system", "content": "Be short."}, *talk]):
        expected = original.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert expected.endswith("ASSISTANT:") and expected.startswith("<s>")
        assert text.chat(messages) == original.encode(expected, add_special_tokens=False)


TALK = [{"role": "user", "content": "Hi"}]


def test_a_model_without_a_template_is_told_one_by_name(tmp_path, text):
    model = shutil.copytree(EXAMPLE, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    out = tmp_path / "out"
    out.mkdir()
    assert [path.name for path in copy_tokenizer(model, out)] == ["tokenizer.json", "special_tokens.json"]
    bare = Text(out)
    with pytest.raises(RunError, match="no chat template; .* --template vicuna-v1.1 or vicuna-v1.5 or chatml"):
        bare.chat(TALK)
    with pytest.raises(RunError, match="there is no chat template 'vicuna'; choose one of vicuna-v1.1, "):
        bare.chat(TALK, template="vicuna")
    assert bare.chat(TALK, template="vicuna-v1.5") == text.chat(TALK) != text.chat(TALK, template="chatml")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    assert copy_tokenizer(model, tmp_path) == []
    assert load_text(tmp_path) is None


TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds {a} and b."}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": "é"}'}}


def test_a_template_that_knows_no_tools_gets_them_in_words(text):
    talk = [
        {"role": "system", "content": "Be brief."},
        *TALK,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "tool", "tool_call_id": "call_2", "content": "4"},
    ]
    written = text.written(talk, TOOLS)
    assert written.startswith("<s>Be brief.\n\n# Tools\n\nYou may call") and written.endswith(
        "</tool_call> USER: Hi "
        'ASSISTANT: <tool_call>\n{"name": "add", "arguments": {"a": "é"}}\n</tool_call></s>'
        "USER: <tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response> ASSISTANT:"
    )
    assert (
        '<tools>\n{"type": "function", "function": {"name": "add", "description": "Adds {a} and b."}}\n</tools>'
        in written
    )
    assert "# Tools" not in text.written(talk) and "<tool_response>" in text.written(talk)
    assert text.written(TALK, TOOLS).startswith("<s># Tools")
    # in qwen's own words it is the same
    assert text.written(talk, TOOLS, "qwen") == text.written(talk, TOOLS, "chatml")


def test_contents_in_parts_are_one_text(text):
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert text.chat([{"role": "user", "content": parts}]) == text.chat(TALK)
    with pytest.raises(RunError, match="content of type image_url; this model reads text only"):
        text.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_half_a_character_is_refused(text):
    for ask in (lambda: text.raw("a\ud83e"), lambda: text.chat([{"role": "user", "content": "a\ud83e"}])):
        with pytest.raises(RunError, match=r"half a character, '\\ud83e'; send whole ones"):
            ask()


def test_a_template_may_refuse(tmp_path):
    copy_tokenizer(EXAMPLE, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('only users speak') }}")
    with pytest.raises(RunError, match="the chat template refuses the conversation: only users speak"):
        Text(tmp_path).chat([{"role": "user", "content": "Hi"}])
