"""Calibration texts: cut to the context; the one that ships, and when it is used without a word."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mpsplit.errors import ConvertError
from mpsplit.export.weights import calibration_text
from mpsplit.export.weights.calibration_text import MOST, SHIPPED, by_default, seconds_of, sequences, tokens_of
from mpsplit.package.manifest import TOKENIZER
from mpsplit.plan.shards import even_plan
from tests.models import EXAMPLE, facts

SMOL = facts(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152, context=8192)
SEVEN_B = facts(hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128, mlp=11008, vocabulary=32000)


def test_each_token_once_in_order(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("What is 12+34? The answer is 46.\n" * 60, encoding="utf-8")
    tokens = tokens_of(text, EXAMPLE / TOKENIZER, MOST)
    parts = sequences(tokens, 100, length=512)
    assert [token for part in parts for token in part] == tokens
    assert {len(part) for part in parts[:-1]} == {100} and 0 < len(parts[-1]) <= 100
    assert tokens_of(text, EXAMPLE / TOKENIZER, 150) == tokens[:150] and len(tokens) > 150


def test_what_cannot_be_read_is_refused(tmp_path):
    text = tmp_path / "text.txt"
    with pytest.raises(ConvertError, match="cannot be read .*; give a file of plain text"):
        tokens_of(text, EXAMPLE / TOKENIZER, MOST)
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConvertError, match="cannot be read .*; give a file of plain text"):
        tokens_of(text, EXAMPLE / TOKENIZER, MOST)


def test_the_shipped_text_fills_what_is_read_of_it_with_many_kinds_of_text():
    """A small vocabulary makes more tokens of it than are taken, and then these must be mixed."""
    text = SHIPPED.read_text(encoding="utf-8")
    tokens = tokens_of(SHIPPED, EXAMPLE / TOKENIZER, MOST)
    assert len(tokens) == MOST
    start = text[: len(text) * MOST // len(tokens_of(SHIPPED, EXAMPLE / TOKENIZER, len(text)))]
    assert all(word in start for word in ("def ", "#include", '" she said', "Assistant:", "ä", "ñ", "à"))


def partition(of=SMOL, ranks=1):
    return SimpleNamespace(facts=of, plan=even_plan(of, ranks, 1))


def test_it_is_used_where_that_is_quick():
    found, why_not = by_default(partition(), EXAMPLE, 1, 2)
    assert not why_not and sum(map(len, found.sequences)) == MOST and found.method == "gptq"
    assert max(map(len, found.sequences)) == 256
    short, _ = by_default(partition(replace(SMOL, context=100)), EXAMPLE, 1, 2)
    assert max(map(len, short.sequences)) == 100


@pytest.mark.parametrize(
    "of, ranks, processes, cores, said",
    [
        (SEVEN_B, 1, 1, 2, "it would take about [0-9,]{6} s; --calibrate FILE does it all the same"),
        (SMOL, 3, 1, 2, "1 process does not run all 3 ranks at once"),
    ],
)
def test_it_is_not_used_where_it_takes_long_or_ranks_do_not_meet(of, ranks, processes, cores, said):
    found, why_not = by_default(partition(of, ranks), EXAMPLE, processes, cores)
    assert found is None and re.fullmatch(said, why_not), why_not


def test_it_is_not_used_without_tokenizer_or_torch(tmp_path, monkeypatch):
    assert by_default(partition(), tmp_path, 1, 2) == (None, "the package has no tokenizer")
    monkeypatch.setattr(calibration_text, "find_spec", lambda name: None)
    assert by_default(partition(), EXAMPLE, 1, 2) == (None, "torch is not installed")


def test_more_cores_take_less_and_larger_models_more():
    assert seconds_of(SMOL, MOST, 4) == seconds_of(SMOL, MOST, 2) / 2 < seconds_of(SEVEN_B, MOST, 4) / 50
