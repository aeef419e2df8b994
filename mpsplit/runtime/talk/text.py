"""Text and tokens.

In: the package's tokenizer files. Out: prompts as ids, ids as text that grows by whole characters.
"""

from __future__ import annotations

import re
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.package.manifest import SPECIAL, TEMPLATE, TOKENIZER
from mpsplit.package.named_templates import TEMPLATES, named_template
from mpsplit.package.param_text import REMEDY
from mpsplit.package.whole_files import read_json, read_text
from mpsplit.runtime.talk.conversation_messages import in_words, with_contents
from mpsplit.runtime.talk.template_renderer import Renderer
from mpsplit.runtime.talk.tokenizer import check_whole, read_tokenizer

REPLACEMENT = "\ufffd"  # what a decoder shows for bytes that are no character yet


class Text:
    def __init__(self, package: Path):
        self.tokenizer = read_tokenizer(package)
        self.special = read_json(package / SPECIAL, REMEDY)
        self.template = read_text(package / TEMPLATE, REMEDY) if (package / TEMPLATE).is_file() else None
        self.renderer = Renderer()

    def chat(self, messages: list[dict], tools: list[dict] | None = None, template: str = "") -> list[int]:
        """The ids of a conversation, ready for the assistant's answer; by the tokenizer's own
        template unless another is named."""
        return self._ids(self.written(messages, tools, template), special=False)

    def written(self, messages: list[dict], tools: list[dict] | None = None, template: str = "") -> str:
        """The text of which `chat` gives the ids."""
        source = named_template(template) if template else self.template
        if source is None:
            raise RunError(
                "this package has no chat template; choose the one its model was trained with, --template"
                f" {' or '.join(TEMPLATES)}"
            )
        messages = with_contents(messages)
        if not re.search(r"\btools\b", source):
            messages, tools = in_words(messages, tools), None
        variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True}
        return self.renderer.render(source, self.special | variables)

    def raw(self, text: str) -> list[int]:
        """The ids of a text as it stands, with what the tokenizer itself puts around it."""
        return self._ids(text, special=True)

    def _ids(self, text: str, special: bool) -> list[int]:
        check_whole(text)
        # of a batch, for `encode` holds the GIL, and other requests would wait
        return self.tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load_text(package: Path) -> Text | None:
    """The package's tokenizer, None when its model had none."""
    return Text(package) if (package / TOKENIZER).is_file() else None


class Stream:
    """Text that grows with the ids: holds back bytes that are no character yet, and what may become
    a stop string.

    `push` ids, `take` what can be shown since the last time. After `finish`, `whole` is all that
    was taken.
    """

    def __init__(self, text: Text, stops: tuple[str, ...] = ()):
        self.text, self.stops = text, stops
        self.stopped = False
        self.whole = ""  # the whole characters so far, cut before a stop string
        self._ids: list[int] = []
        self._settled = 0  # _ids[:_settled] are in `whole`
        self._taken = 0
        self._finished = False

    def push(self, token: int) -> None:
        self._ids.append(token)
        self._settle(self._new_text())

    def finish(self) -> None:
        """Nothing follows: what was held back is text now."""
        self._finished = True
        if not self.stopped and self._settled < len(self._ids):
            self._settle(self._new_text(), whatever=True)

    def take(self) -> str:
        until = len(self.whole) if self._finished or self.stopped else len(self.whole) - self._held()
        piece, self._taken = self.whole[self._taken : until], max(self._taken, until)
        return piece

    def _new_text(self) -> str:
        """The text of the unsettled ids; decoders look one id back for spaces, so one settled id
        goes along."""
        start = max(0, self._settled - 1)
        known = self.text.decode(self._ids[start : self._settled])
        return self.text.decode(self._ids[start:])[len(known) :]

    def _settle(self, piece: str, whatever: bool = False) -> None:
        if self.stopped or piece.endswith(REPLACEMENT) and not whatever:
            return
        self.whole += piece
        self._settled = len(self._ids)
        starts = [at for stop in self.stops if (at := self.whole.find(stop)) >= 0]
        if starts:
            self.stopped = True
            self.whole = self.whole[: min(starts)]

    def _held(self) -> int:
        """The length of the longest end of the text that begins a stop string."""
        lengths = (
            n
            for stop in self.stops
            for n in range(min(len(stop) - 1, len(self.whole)), 0, -1)
            if self.whole.endswith(stop[:n])
        )
        return max(lengths, default=0)
