import json

import numpy as np
import pytest

from mpsplit.check.evaluation import Score, evaluate
from mpsplit.check.tasks import Question, Task, read_tasks
from mpsplit.commands.eval import SHIPPED
from mpsplit.errors import RunError
from mpsplit.runtime.load import load_loop
from tests.cases import splits
from tests.models import EXAMPLE

QUESTIONS = Task(
    "letters",
    (
        Question("What is 57+86?", ("143", "144", "a horse that is long"), 0),
        Question("Reverse the word ROCKET. ", ("TEKCOR", "ROCKET"), 1),
        Question("x" * 150, ("y", "z z", "yyy"), 2),
    ),
)
PROSE = Task("prose", texts=("What is the capital of Japan?", "ab" * 300, "q"))


def tokens_of(text):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(EXAMPLE / "tokenizer.json")).encode(text).ids


@pytest.fixture(scope="module")
def surprise():
    """Of transformers, in nats: at what follows the first `given` tokens of some."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()

    def of(tokens, given):
        with torch.inference_mode():
            rows = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)
        return -sum(rows[i - 1, tokens[i]].item() for i in range(given, len(tokens)))

    return of


@pytest.mark.mpi
def test_scores_are_those_of_the_whole_model(world, package_of, surprise):
    loop = load_loop(package_of(EXAMPLE, *splits(world.size)[-1]), world)
    scores = evaluate(loop.engine, world, [QUESTIONS, PROSE], loop.text)
    if world.rank:
        assert scores == []
        return
    right = by_letter = 0
    for question in QUESTIONS.questions:
        gap = "" if question.ask.endswith(" ") else " "
        asked = tokens_of(question.ask)
        nats = [surprise(tokens_of(question.ask + gap + choice), len(asked)) for choice in question.choices]
        right += int(np.argmin(nats)) == question.right
        by_letter += int(np.argmin([n / len(c) for n, c in zip(nats, question.choices, strict=True)])) == question.right
    questions, prose = scores
    assert (questions.right, questions.right_by_letter) == (right, by_letter) and questions.questions == 3
    assert questions.by_guess == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)
    context, expected, count = loop.facts.context, 0.0, 0
    for text in PROSE.texts:
        tokens = tokens_of(text)
        for start in range(0, len(tokens) - 1, context - 1):
            window = tokens[start : start + context]
            expected, count = expected + surprise(window, 1), count + len(window) - 1
    assert prose.tokens == count and prose.bytes == sum(map(len, PROSE.texts))
    assert prose.nats == pytest.approx(expected, rel=1e-4)


def test_a_choice_is_found_likely_after_all_before_it(world, package_of):
    """Of one that the model knows by heart."""
    loop = load_loop(package_of(EXAMPLE, 1, 1), world)
    known = Task("sums", (Question("What is the capital of Japan?", (" Tokyo.", " Paris.", " London."), 0),), chat=True)
    other = Task("sums", (Question("What is the capital of Japan?", (" Tokyo.", " Paris.", " London."), 1),), chat=True)
    (right,), (wrong,) = (evaluate(loop.engine, world, [task], loop.text) for task in (known, other))
    assert (right.right, wrong.right) == (1, 0)


@pytest.mark.parametrize(
    "task, why",
    [
        (Task("long", (Question("a" * 5000, ("b", "c"), 0),)), r"a question of 'long' has 500\d tokens, the context"),
        (Task("short", texts=("a",)), "fewer than two tokens each"),
        (Task("none", (Question("", ("ab", "cd"), 0),)), "which is no token; ask something"),
    ],
)
def test_what_cannot_be_asked_is_told(world, package_of, task, why):
    loop = load_loop(package_of(EXAMPLE, 1, 1), world)
    with pytest.raises(RunError, match=why):
        evaluate(loop.engine, world, [task], loop.text)


def test_a_package_without_a_tokenizer_cannot_be_judged(world, package_of):
    loop = load_loop(package_of("llama", 1, 1), world)
    with pytest.raises(RunError, match="this package has no tokenizer"):
        evaluate(loop.engine, world, [PROSE], loop.text)


def test_scores_in_numbers():
    score = Score("x", questions=100, right=80)
    assert score.error == pytest.approx(0.04)
    text = Score("x", tokens=10, bytes=20, nats=10 * np.log(4))
    assert text.perplexity == pytest.approx(4) and text.bits_a_byte == pytest.approx(1)


def test_the_tasks_that_ship_can_be_read():
    knowledge, prose = read_tasks(SHIPPED)
    assert len(knowledge.questions) == 50 and {len(q.choices) for q in knowledge.questions} == {4}
    assert len({q.right for q in knowledge.questions}) == 4 and len(prose.texts) == 3


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "Expecting value"),
        ("[1]", "the file is list, it must be an object"),
        ('{"tasks": []}', "has no task"),
        ('{"tasks": [{"name": "a"}]}', "'a' must have either questions or texts"),
        ('{"tasks": [{"name": "a", "texts": [""]}]}', "texts.* it must be a text"),
        ('{"tasks": [{"name": "a", "questions": [{"ask": "b", "choices": ["c"], "right": 0}]}]}', "has 1 choices"),
        ('{"tasks": [{"name": "a", "questions": [{"ask": "b", "choices": ["c", "d"], "right": 2}]}]}', "right is 2"),
        (
            '{"tasks": [{"name": "a", "questions": [{"ask": "b", "choices": ["c", 4], "right": 0}]}]}',
            "is 4, it must",
        ),
        ("[" * 10000, "cannot be read"),
    ],
)
def test_a_file_that_is_no_tasks(tmp_path, text, why):
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(RunError, match=f"--tasks .*{why}"):
        read_tasks(tmp_path / "tasks.json")
    with pytest.raises(RunError, match="cannot be read"):
        read_tasks(tmp_path / "none.json")
    assert json.loads(SHIPPED.read_text())["tasks"]
