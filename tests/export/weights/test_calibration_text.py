"""Calibration texts: cut to the context, refused when they say too little."""

import pytest

from mpsplit.errors import ConvertError
from mpsplit.export.weights.calibration_text import sequences
from tests.models import EXAMPLE

TOKENIZER = EXAMPLE / "tokenizer.json"


def test_each_token_once_in_order(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("What is 12+34? The answer is 46.\n" * 60, encoding="utf-8")
    whole = [token for part in sequences(text, TOKENIZER, 512) for token in part]
    parts = sequences(text, TOKENIZER, 100, length=512)
    assert [token for part in parts for token in part] == whole
    assert {len(part) for part in parts[:-1]} == {100} and 0 < len(parts[-1]) <= 100
    assert sum(map(len, sequences(text, TOKENIZER, 512, most=150))) == 150


def test_what_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    with pytest.raises(ConvertError, match="cannot be read .*; give a file of plain text"):
        sequences(text, TOKENIZER, 512)
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConvertError, match="cannot be read .*; give a file of plain text"):
        sequences(text, TOKENIZER, 512)
    text.write_text("Hello", encoding="utf-8")
    with pytest.raises(ConvertError, match="tokens, and 128 are needed; give a longer text"):
        sequences(text, TOKENIZER, 512)
