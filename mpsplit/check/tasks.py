"""Tasks that a package can be judged by, as people write them down.

In: a JSON file. Out: Tasks.

{"tasks": [{"name": "capitals", "questions": [{"ask": "The capital of France is",
                                              "choices": ["Paris", "Rome"], "right": 0}]},
           {"name": "prose", "texts": ["It was late when ..."]}]}

With "chat": true the questions go through the chat template, and the choices are answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsplit.errors import PackageError, RunError
from mpsplit.package.json_fields import flag, many, record, text, whole

MOST = 100_000  # questions, or texts, of a task
SOME_TEXT = text(r"(?s).+", "a text")
ASKED = text(r"(?s).*", "a text")
QUESTION = record({"ask": ASKED, "choices": many(SOME_TEXT, 100), "right": whole(0, 99)})
TASK = record({"name": SOME_TEXT}, {"questions": many(QUESTION, MOST), "texts": many(SOME_TEXT, MOST), "chat": flag})
TASKS = record({"tasks": many(TASK, 1000)})


@dataclass(frozen=True)
class Question:
    """`right` is a place among the choices."""

    ask: str
    choices: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Task:
    """Either questions, or texts to be surprised by."""

    name: str
    questions: tuple[Question, ...] = ()
    texts: tuple[str, ...] = ()
    chat: bool = False


def read_tasks(path: Path) -> tuple[Task, ...]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        TASKS(data, "the file")
        tasks = tuple(map(_task, data["tasks"]))
    except (OSError, ValueError, RecursionError, PackageError) as wrong:
        raise RunError(f"--tasks {path} cannot be read ({wrong}); docs/right.md shows what such a file is") from None
    if not tasks:
        raise RunError(f"--tasks {path} has no task; docs/right.md shows what such a file is")
    return tasks


def _task(data: dict[str, Any]) -> Task:
    questions = tuple(Question(q["ask"], tuple(q["choices"]), q["right"]) for q in data.get("questions", ()))
    task = Task(data["name"], questions, tuple(data.get("texts", ())), data.get("chat", False))
    if bool(task.questions) == bool(task.texts):
        raise ValueError(f"{task.name!a} must have either questions or texts")
    for number, question in enumerate(questions):
        if not len(question.choices) >= 2 or question.right >= len(question.choices):
            raise ValueError(
                f"question {number} of {task.name!a} has {len(question.choices)} choices, right is {question.right}"
            )
    return task
