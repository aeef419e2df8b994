"""How often a package is right by how likely it finds each choice, and how texts surprise it.

In: an engine on every rank, Tasks on rank 0. Out: Scores on rank 0.

The likelihood of a choice is the product of its tokens', each after all before it. What a question
asks is computed once, its choices after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

import numpy as np

from mpsplit.check.likelihood import CHUNK, log_softmax
from mpsplit.check.tasks import Question, Task
from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.json_fields import many, whole
from mpsplit.package.together.exchanged import of_rank_0
from mpsplit.progress import track
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.loop.all_logits import all_logits
from mpsplit.runtime.loop.orders import LEAD
from mpsplit.runtime.talk.text import Text

MOST_SEQUENCES = 1 << 20
TOKENS = many(whole(0, (1 << 31) - 1), MOST_SEQUENCES)


@dataclass(frozen=True)
class Score:
    """Of a task. Of questions: how many, how many are `right` by the likelihood of the whole choice
    and how many by that of one letter of it, and what share a guess would get. Of texts: tokens,
    bytes, and the surprise at all of them in nats."""

    name: str
    questions: int = 0
    right: int = 0
    right_by_letter: int = 0
    by_guess: float = 0.0
    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0

    @property
    def error(self) -> float:
        """The standard error of the share that is right."""
        share = self.right / self.questions
        return math.sqrt(share * (1 - share) / self.questions)

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_a_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    def to_json(self) -> dict[str, Any]:
        if self.questions:
            shares = {"right": self.right / self.questions, "right_by_letter": self.right_by_letter / self.questions}
            return {"name": self.name, "questions": self.questions, **shares, "error": self.error,
                    "by_guess": self.by_guess}  # fmt: skip
        return {"name": self.name, "tokens": self.tokens, "perplexity": self.perplexity,
                "bits_a_byte": self.bits_a_byte}  # fmt: skip


# what comes first, then what may follow it, each alone; a text follows its own first token
Branches = list[list[int]]


def evaluate(engine: Engine, comm: Communicator, tasks: Sequence[Task], text: Text | None) -> list[Score]:
    """All ranks call; `tasks` and `text` count on rank 0."""
    mine: list[list[Branches]] = []
    if comm.rank == LEAD:
        if text is None:
            raise RunError("eval reads texts, and this package has no tokenizer; partition a model that has one")
        mine = [_branches(task, text, engine.manifest.facts.context) for task in tasks]
    branches_of = of_rank_0(comm, mine, _read)
    scores = []
    for number, of_task in enumerate(branches_of):
        name = tasks[number].name if comm.rank == LEAD else "task"
        nats = [list(_surprises(engine, comm, branches)) for branches in track(of_task, name)]
        if comm.rank == LEAD:
            scores.append(_score(tasks[number], of_task, nats))
    return scores


def _read(data: list[list[Branches]]) -> list[list[Branches]]:
    many(many(many(TOKENS, MOST_SEQUENCES), MOST_SEQUENCES), MOST_SEQUENCES)(data, "the tasks")
    return data


def _branches(task: Task, text: Text, context: int) -> list[Branches]:
    if task.texts:
        windows = [window for each in task.texts for window in _windows(text.raw(each), context)]
        if not windows:
            raise RunError(f"the texts of {task.name!a} have fewer than two tokens each; give longer ones")
        return windows
    return [_of_question(task, question, text, context) for question in task.questions]


def _windows(tokens: list[int], context: int) -> Iterator[Branches]:
    """A text longer than the context is cut; the first token of a window is no surprise."""
    for start in range(0, len(tokens) - 1, context - 1):
        window = tokens[start : start + context]
        yield [window[:1], window[1:]]


def _of_question(task: Task, question: Question, text: Text, context: int) -> Branches:
    if task.chat:
        asked = text.chat([{"role": "user", "content": question.ask}])
        answered = [asked + text.raw(choice) for choice in question.choices]
    else:
        asked = text.raw(question.ask)
        gap = "" if not question.ask or question.ask[-1].isspace() else " "
        answered = [text.raw(question.ask + gap + choice.lstrip()) for choice in question.choices]
    shared = min(len(commonprefix([asked, *answered])), *(len(tokens) - 1 for tokens in answered))
    if shared < 1:
        raise RunError(f"{task.name!a} asks {question.ask!a:.60}, which is no token; ask something")
    if (longest := max(map(len, answered))) > context:
        raise RunError(f"a question of {task.name!a} has {longest} tokens, the context {context}; shorten it")
    return [answered[0][:shared], *(tokens[shared:] for tokens in answered)]


def _surprises(engine: Engine, comm: Communicator, branches: Branches) -> Iterator[float]:
    """In nats, at each of what may follow; on rank 0, where the logits are."""
    first, *following = branches
    last = None
    for start in range(0, len(first), CHUNK):
        rows = all_logits(engine, comm, first[start : start + CHUNK], start)
        last = rows[-1:] if rows is not None else None
    for tokens in following:
        nats = _nats(last, tokens[:1])
        for start in range(0, len(tokens) - 1, CHUNK):
            piece, after = tokens[start : start + CHUNK], tokens[start + 1 : start + CHUNK + 1]
            rows = all_logits(engine, comm, piece[: len(after)], len(first) + start)
            nats += _nats(rows, after)
        yield nats


def _nats(rows: np.ndarray | None, tokens: Sequence[int]) -> float:
    if rows is None:
        return 0.0
    return -float(log_softmax(rows)[np.arange(len(tokens)), list(tokens)].sum())


def _score(task: Task, branches_of: list[Branches], nats: list[list[float]]) -> Score:
    if task.texts:
        tokens = sum(len(following) for _, following in branches_of)
        size = sum(len(text.encode()) for text in task.texts)
        return Score(task.name, tokens=tokens, bytes=size, nats=sum(map(sum, nats)))
    right = by_letter = 0
    for question, surprises in zip(task.questions, nats, strict=True):
        lengths = [len(choice) for choice in question.choices]
        right += int(np.argmin(surprises)) == question.right
        by_letter += int(np.argmin(np.divide(surprises, lengths))) == question.right
    by_guess = sum(1 / len(question.choices) for question in task.questions) / len(task.questions)
    return Score(task.name, len(task.questions), right, by_letter, by_guess)
