"""A tokenizer that went through a GGUF file cuts texts as it did before."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mpsplit.export.model.gguf.gguf_header import GgufModel
from mpsplit.export.model.gguf.gguf_tokenizer import WAYS, NoTokenizer, tokenizer_of, write_tokenizer
from tests.models import EXAMPLE

TEXTS = [
    "Hello world, it's 12345 o'clock!\n\n\tdef f(x):\r\n    return x ** 2  # DON'T  ",
    "Ünïcödé e\u0301 déjà-vu 日本語 テスト 😀 ٣٤٥ ΑΒΓ αβγ Æther NATO HTTPServer",
    "<|im_start|>user\nhi<|im_end|>\n<s> </s>",
    *(EXAMPLE.parents[1] / "README.md").read_text().splitlines()[:60],
]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def gguf_of(words: dict) -> GgufModel:
    return GgufModel([], {f"tokenizer.ggml.{name}": value for name, value in words.items()}, {})


def byte_level(way: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if WAYS[way].composes else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(WAYS[way].cut())
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return tokenizer


def words_of(tokenizer: Tokenizer, kind: str) -> dict:
    """What a GGUF file would have of it."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    marks = dict.fromkeys(SPECIAL, 3) | {"<unk>": 2} | dict.fromkeys(BYTES, 6)
    return {
        "model": kind,
        "tokens": tokens,
        "token_type": [marks.get(token, 1) for token in tokens],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": tokens.index("<s>"),
        "eos_token_id": tokens.index("</s>"),
    }


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_cutting_words(way):
    before = byte_level(way)
    words = words_of(before, "gpt2") | {"pre": way, "add_bos_token": False}
    after = tokenizer_of(gguf_of(words))
    for text in TEXTS:
        assert after.encode(text).ids == before.encode(text).ids, text
        assert after.decode(after.encode(text).ids) == before.decode(before.encode(text).ids)


def sentence_piece(prefix: bool) -> tuple[Tokenizer, list[float]]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prefix else spaces
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *SPECIAL, *BYTES])
    tokenizer.train_from_iterator(TEXTS[:1] * 9 + TEXTS[3:], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    scores = {"".join(merge): -float(rank) for rank, merge in reversed([*enumerate(model["merges"])])}
    return tokenizer, [scores.get(token, -1e6) for token in sorted(model["vocab"], key=model["vocab"].get)]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece(prefix):
    before, scores = sentence_piece(prefix)
    words = words_of(before, "llama") | {"scores": scores, "add_space_prefix": prefix, "add_bos_token": False}
    del words["merges"]
    after = tokenizer_of(gguf_of(words))
    for text in TEXTS[:2] + TEXTS[3:]:
        assert after.encode(text).ids == before.encode(text).ids, text
        assert after.decode(after.encode(text).ids) == text
    assert after.encode("<s>a").ids[0] == words["bos_token_id"]


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_comes_back(text):
    scored, scores = PIECES
    words = words_of(scored, "llama") | {"scores": scores, "add_bos_token": False}
    assert tokenizer_of(gguf_of(words)).decode(tokenizer_of(gguf_of(words)).encode(text).ids, False) == text


PIECES = sentence_piece(True)


def test_begin_and_end_of_texts():
    words = words_of(byte_level("gpt-2"), "gpt2") | {"pre": "gpt-2"}
    begin, end = words["bos_token_id"], words["eos_token_id"]
    for settings_, first, last in (
        ({}, None, None),
        ({"add_bos_token": True}, begin, None),
        ({"add_bos_token": True, "add_eos_token": True}, begin, end),
        ({"pre": "llama-bpe"}, begin, None),
        ({"pre": "llama-bpe", "add_bos_token": False}, None, None),
    ):
        ids = tokenizer_of(gguf_of(words | settings_)).encode("hi").ids
        assert (ids[0] == begin, ids[-1] == end) == (first is not None, last is not None), settings_


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"model": "bert"}, "of kind 'bert'; known are gpt2 and llama"),
        ({"pre": "chameleon"}, "the way of 'chameleon'; known are gpt-2"),
        ({"pre": None}, "the way of 'none named'"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "two tokens have one text"),
        ({"tokens": []}, "0 tokens"),
        ({"token_type": [1]}, "tokens and 1 types"),
        ({"merges": ["a b c"]}, "merges .a and b and c."),
        ({"merges": ["zz yy"]}, "are no tokens of it"),
        ({"merges": [1]}, "no list of strs"),
        ({"bos_token_id": 10**6, "add_bos_token": True}, "its <bos> is number 1000000"),
    ],
)
def test_what_cannot_be_the_same_is_no_tokenizer(changes, why):
    words = words_of(byte_level("gpt-2"), "gpt2") | {"pre": "gpt-2"} | changes
    with pytest.raises(NoTokenizer, match=why):
        tokenizer_of(gguf_of({name: value for name, value in words.items() if value is not None}))


def test_files_for_the_run_half(tmp_path):
    gguf = gguf_of(words_of(byte_level("gpt-2"), "gpt2") | {"pre": "gpt-2"})
    gguf.settings["tokenizer.chat_template"] = "{{ messages }}\n"
    write_tokenizer(gguf, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages }}\n"
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("<|im_start|>").ids == [2]
