"""The class Chat: ranks that it starts itself, and ranks of an mpirun."""

import subprocess
import sys

import pytest

from mpsplit.errors import RunError
from mpsplit.mpirun import OPEN_MPI, find_mpirun
from tests.missing import need
from tests.models import EXAMPLE
from tests.running import CLEAN

PROGRAM = """
import json
import sys
from mpsplit import Chat
pieces = []
with Chat(sys.argv[1], max_new_tokens=40) as chat:
    assert chat.stats() is None
    answer = chat.generate("What is the capital of France?", on_text=pieces.append)
    assert "".join(pieces) == answer, pieces
    again = chat.generate("What is the capital of France?", temperature=0.9, seed=3, max_new_tokens=2)
    assert chat.stats()["new_tokens"] <= 2 and chat.stats()["cached_tokens"] > 0
    assert len(json.loads(json.dumps(chat.stats()))["accounts"]) == int(sys.argv[2])
    chat.reset()
    assert chat.generate("What is the capital of France?") == answer
    found = chat.benchmark(20, 5)
    assert found["prefill_tok_s"] > 0 and found["decode_tok_s"] > 0
print(answer.strip())
"""


def answer(*command):
    done = subprocess.run(
        list(map(str, command)), env={**CLEAN, **OPEN_MPI}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_answers_over_ranks_of_its_own(package_of, ranks):
    if ranks > 1:
        need("gloo")
    assert (
        answer(sys.executable, "-c", PROGRAM, package_of(EXAMPLE, ranks, 1), ranks) == "The capital of France is Paris."
    )


def test_it_answers_over_the_ranks_of_an_mpirun(package_of):
    said = answer(find_mpirun(), "-np", 2, sys.executable, "-c", PROGRAM, package_of(EXAMPLE, 2, 1), 2)
    assert said == "The capital of France is Paris."


def test_a_wrong_setting_is_refused_before_any_rank_is_started(package_of):
    from mpsplit import Chat

    with pytest.raises(RunError, match="there is no setting 'temprature'; did you mean temperature"):
        Chat(package_of(EXAMPLE, 2, 1), temprature=1)
