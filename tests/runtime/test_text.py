import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsplit.errors import RunError
from mpsplit.export.tokenizer import VICUNA_V1_5, copy_tokenizer
from mpsplit.runtime.text import Stream, Text, load_text
from tests.conftest import EXAMPLE


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


def test_a_model_without_a_template_gets_vicunas_and_one_without_a_tokenizer_none(tmp_path, text):
    model = shutil.copytree(EXAMPLE, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    out = tmp_path / "out"
    out.mkdir()
    copy_tokenizer(model, out)
    assert (out / "chat_template.jinja").read_text() == VICUNA_V1_5
    talk = [{"role": "user", "content": "Hi"}]
    assert Text(out).chat(talk) == text.chat(talk)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    assert copy_tokenizer(model, tmp_path) == []
    assert load_text(tmp_path) is None


def test_a_template_may_refuse(tmp_path):
    copy_tokenizer(EXAMPLE, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('only users speak') }}")
    with pytest.raises(RunError, match="the chat template refuses the conversation: only users speak"):
        Text(tmp_path).chat([{"role": "user", "content": "Hi"}])
