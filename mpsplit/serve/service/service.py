"""What the endpoints of a decoder need beside what every server has: its text, and the settings of
calls.

Made once, when the server starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mpsplit.runtime.choose.lexicon import Lexicon
from mpsplit.runtime.talk.answer_settings import Layer
from mpsplit.runtime.talk.text import Text
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.service.any_service import AnyService
from mpsplit.serve.service.client_texts import ClientTexts
from mpsplit.serve.service.served_loop import ServedLoop


@dataclass(frozen=True)
class Service(AnyService):
    """`layers` say what calls leave out, the weakest first; `most_tokens` of a prompt and its
    answer, where that is to be less than the model's context."""

    loop: ServedLoop
    layers: tuple[Layer, ...] = ()
    most_tokens: int | None = None
    share_prefixes: bool = False  # a key finds what others computed, and can tell that they did

    @property
    def text(self) -> Text:
        if self.loop.text is None:
            raise ApiError(400, "this model has no tokenizer; ask /v1/completions with token ids", "no_tokenizer")
        return self.loop.text

    @property
    def context(self) -> int:
        return min(self.most_tokens or self.loop.facts.context, self.loop.facts.context)

    @property
    def task(self) -> str:
        return "chat"

    @cached_property
    def client_texts(self) -> ClientTexts:
        return ClientTexts(self.loop)

    @cached_property
    def lexicon(self) -> Lexicon:
        return Lexicon(self.text.tokenizer.to_str(), self.loop.facts.vocabulary, self.loop.eos)

    @cached_property
    def longest_prompt(self) -> int:
        """Characters: the context full of the longest token."""
        return self.context * max(map(len, self.text.tokenizer.get_vocab()))

    def salt(self, owner: str) -> str:
        """Whose pages an owner finds (pages.py): with several keys those of its own."""
        return owner if len(self.keys) > 1 and not self.share_prefixes else ""
