"""The bytes of each token, and answers that must be JSON.

In: tokenizer.json, JSON schemas. Out: states of a grammar, a token at a time.

llguidance does the work; the first use of a Lexicon reads the vocabulary, a second for a large one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from mpsplit.errors import RunError


class NoWayOn(RunError):
    """The request's grammar allows no token that this model could say."""


class Grammar(Protocol):
    """What an answer may be, token by token."""

    def allowed(self) -> np.ndarray:
        """What may come next, as answers.bits_of; the end of text among them where the answer may
        end."""

    def accept(self, token: int) -> None: ...


@dataclass(frozen=True)
class Lexicon:
    """`vocabulary`: rows of the model's head, which may be more than the tokenizer knows."""

    tokenizer_json: str
    vocabulary: int
    eos: tuple[int, ...]

    def bytes_of(self, token: int) -> bytes:
        return self._tokens.decode_bytes([token])

    def grammar(self, schema: dict[str, Any]) -> Callable[[], Grammar]:
        """Makes the state of a new answer, whose text is JSON as the schema says."""
        from llguidance import LLMatcher

        try:
            # compact, or a small model may go on with blanks until its last token
            text = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides={"whitespace_flexible": False})
            wrong = LLMatcher.validate_grammar(text, self._tokens)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise RunError(f"the JSON schema cannot be used: {' '.join(wrong.split())}")
        first = LLMatcher(self._tokens, text, log_level=0)
        return lambda: JsonGrammar(first.deep_copy())

    @cached_property
    def _tokens(self):
        from llguidance import LLTokenizer
        from tokenizers import Tokenizer

        known = Tokenizer.from_str(self.tokenizer_json).get_vocab_size()
        return LLTokenizer(self.tokenizer_json, max(known, self.vocabulary), list(self.eos) or None)


class JsonGrammar(Grammar):
    """Where one answer stands. llguidance gives up where a schema is beyond its limits."""

    def __init__(self, matcher):
        self.matcher = matcher

    def allowed(self) -> np.ndarray:
        mask = self.matcher.compute_bitmask()
        if self.matcher.is_error():
            limit = re.match(r"Parser Error: (.*max is \d+)", self.matcher.get_error())
            why = f"follow it from here ({limit[1]})" if limit else "go on from here as it says"
            raise NoWayOn(f"no answer can {why}; give a simpler JSON schema, with fewer optional properties")
        return np.frombuffer(bytearray(mask + bytes(-len(mask) % 8)), np.int64)  # one that transports take

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)
