"""Answers that must be JSON: what is allowed is what the schema says, to the end, whatever the
vocabulary."""

import json

import numpy as np
import pytest

from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import allowed_of
from mpsplit.runtime.choose.lexicon import Lexicon, NoWayOn
from tests.models import EXAMPLE

TOKENIZER = (EXAMPLE / "tokenizer.json").read_text()
EOS = 2
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "minimum": 10, "maximum": 19}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("vocabulary", [512, 520])  # as many rows of the head as tokens, and more
def test_every_walk_is_as_the_schema_says(vocabulary):
    lexicon = Lexicon(TOKENIZER, vocabulary, (EOS,))
    make, chance = lexicon.grammar(SCHEMA), np.random.default_rng(0)
    for _ in range(20):
        state, written = make(), b""
        while True:
            allowed = allowed_of(state.allowed())[:vocabulary]
            assert len(allowed) == vocabulary
            token = int(chance.choice(np.flatnonzero(allowed)))
            state.accept(token)
            if token == EOS:
                break
            written += lexicon.bytes_of(token)
        value = json.loads(written)
        assert value["name"] in ("Ann", "Bob") and 10 <= value["age"] <= 19 and len(value) == 2


def test_a_state_that_is_lost_is_refused():
    state = Lexicon(TOKENIZER, 512, (EOS,)).grammar(SCHEMA)()
    state.accept(100)
    with pytest.raises(NoWayOn, match="no answer can go on from here as it says; give a simpler JSON schema"):
        state.allowed()


def test_a_schema_beyond_what_can_be_followed_is_told_with_the_limit():
    lexicon = Lexicon(TOKENIZER, 512, (EOS,))
    optional = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}}
    state = lexicon.grammar(optional)()
    with pytest.raises(NoWayOn, match=r"no answer can follow it from here \(Current row has \d+ items; max is \d+\)"):
        for _ in range(3):
            state.accept(int(np.flatnonzero(allowed_of(state.allowed()))[0]))


@pytest.mark.parametrize("schema", [{"type": "banana"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_schemas_that_are_none(schema):
    with pytest.raises(RunError, match="the JSON schema cannot be used: "):
        Lexicon(TOKENIZER, 512, (EOS,)).grammar(schema)


def test_bytes_of_tokens():
    lexicon = Lexicon(TOKENIZER, 512, (EOS,))
    assert lexicon.bytes_of(334) == b" chat" and lexicon.bytes_of(EOS) == b"</s>"
