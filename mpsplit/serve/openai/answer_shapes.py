"""Answers as OpenAI's clients expect them.

In: pieces and generations. Out: the dicts of `choices`, whole or chunk by chunk, and `usage`.

A AnswerShape is what differs between chats and completions; the rest is the same for both.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mpsplit.runtime.choose.choosing import ChosenToken
from mpsplit.runtime.choose.lexicon import Lexicon
from mpsplit.runtime.loop.loop_protocol import Generation, Piece
from mpsplit.serve.openai.tool_calls import ToolReader

FINISH = {"eos": "stop", "stop": "stop", "length": "length", "context": "length"}


@dataclass
class Answer:
    """What was heard of one request so far; `echo` stands before its text, `reader` takes calls out
    of it where tools are on offer."""

    echo: str = ""
    reader: ToolReader | None = None
    text: str = ""  # without calls
    chosen: list[ChosenToken] = field(default_factory=list)
    characters: int = 0  # of the tokens that chunks have told
    end: Generation | None = None

    @property
    def generation(self) -> Generation:
        assert self.end, "the answer has not ended"
        return self.end

    @property
    def calls(self) -> list[dict]:
        return self.reader.calls if self.reader else []

    @property
    def finish(self) -> str:
        return "tool_calls" if self.calls else FINISH[self.generation.finish_reason]

    def hear(self, event: Piece | Generation) -> str:
        """The text that can be shown now."""
        if isinstance(event, Generation):
            self.end = event
            shown = self.reader.finish() if self.reader else ""
        else:
            shown = self.reader.push(event.text) if self.reader else event.text
        self.text += shown
        return shown


@dataclass(frozen=True)
class AnswerShape(ABC):
    lexicon: Lexicon | None  # None where no probabilities are wanted
    tells_ids: bool = False  # of tokens, where there is no tokenizer to make text of them
    kind: ClassVar[str]  # the `object` of a whole answer
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]  # of ids

    @abstractmethod
    def opening(self, index: int, answer: Answer) -> dict | None:
        """The first chunk of a choice, where there is anything to say before its text."""

    @abstractmethod
    def chunk(self, index: int, answer: Answer, text: str, chosen: Sequence[ChosenToken]) -> dict: ...

    @abstractmethod
    def closing(self, index: int, answer: Answer) -> dict: ...

    @abstractmethod
    def whole(self, index: int, answer: Answer) -> dict: ...


class ChatShape(AnswerShape):
    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def opening(self, index: int, answer: Answer) -> dict | None:
        return _choice(index, {"delta": {"role": "assistant", "content": ""}}, None)

    def chunk(self, index: int, answer: Answer, text: str, chosen: Sequence[ChosenToken]) -> dict:
        return _choice(index, {"delta": {"content": text}}, None, self._logprobs(chosen))

    def closing(self, index: int, answer: Answer) -> dict:
        calls = [{"index": number} | call for number, call in enumerate(answer.calls)]
        return _choice(index, {"delta": {"tool_calls": calls} if calls else {}}, answer.finish)

    def whole(self, index: int, answer: Answer) -> dict:
        message: dict[str, object] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message |= {"content": answer.text or None, "tool_calls": answer.calls}
        return _choice(index, {"message": message}, answer.finish, self._logprobs(answer.chosen))

    def _logprobs(self, chosen: Sequence[ChosenToken]) -> dict | None:
        if self.lexicon is None:
            return None
        entry = functools.partial(_entry, self.lexicon)
        content = [entry(c.id, c.logprob) | {"top_logprobs": [entry(*likely) for likely in c.likely]} for c in chosen]
        return {"content": content, "refusal": None}


class CompletionShape(AnswerShape):
    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl-"

    def opening(self, index: int, answer: Answer) -> dict | None:
        return _choice(index, {"text": answer.echo}, None) if answer.echo else None

    def chunk(self, index: int, answer: Answer, text: str, chosen: Sequence[ChosenToken]) -> dict:
        shown = {"text": text, **self._ids([token.id for token in chosen])}
        return _choice(index, shown, None, self._logprobs(answer, chosen))

    def closing(self, index: int, answer: Answer) -> dict:
        return _choice(index, {"text": ""}, answer.finish)

    def whole(self, index: int, answer: Answer) -> dict:
        text = {"text": answer.echo + answer.text, **self._ids(answer.generation.token_ids)}
        return _choice(index, text, answer.finish, self._logprobs(answer, answer.chosen))

    def _ids(self, tokens: Sequence[int]) -> dict:
        return {"token_ids": tokens} if self.tells_ids else {}

    def _logprobs(self, answer: Answer, chosen: Sequence[ChosenToken]) -> dict | None:
        if self.lexicon is None:
            return None
        columns: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in chosen:
            text = _text(self.lexicon.bytes_of(token.id))
            likely = {_text(self.lexicon.bytes_of(other)): logprob for other, logprob in token.likely}
            for column, value in zip(columns.values(), (text, token.logprob, likely, answer.characters), strict=True):
                column.append(value)
            answer.characters += len(text)
        return columns


def usage(answers: Sequence[Answer], n: int, left_out: int) -> dict:
    """Prompts count once, however many answers they have; `mpsplit` is ours, and `left_out` what
    slid out of the context. The first answer is the one whose conversation may be kept."""
    first = answers[0].generation
    keeping = {"kept": first.kept or None, "saved": first.saved}
    stats = [answer.generation.stats for answer in answers]
    prompt, cached = (sum(getattr(s, name) for s in stats[::n]) for name in ("prompt_tokens", "cached_tokens"))
    new = sum(s.new_tokens for s in stats)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
        "mpsplit": {
            "time_to_first_token_s": min(s.time_to_first_token_s for s in stats),
            "tok_s": sum(s.decode_tok_s for s in stats),
            "bytes_between_ranks": sum(s.bytes_between_ranks for s in stats),
            "cached_tokens": cached,
            "left_out": left_out,
            **{name: told for name, told in keeping.items() if told is not None},
        },
    }


def _choice(index: int, what: dict, finish: str | None, logprobs: dict | None = None) -> dict:
    return {"index": index, **what, "logprobs": logprobs, "finish_reason": finish}


def _entry(lexicon: Lexicon, token: int, logprob: float | None) -> dict:
    written = lexicon.bytes_of(token)
    return {"token": _text(written), "logprob": logprob, "bytes": list(written)}


def _text(token: bytes) -> str:
    return token.decode(errors="replace")
