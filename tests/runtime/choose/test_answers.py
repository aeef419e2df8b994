"""What a rank answers: C++ and numpy tell the same."""

import itertools

import numpy as np
import pytest

from mpsplit.runtime.choose.answers import (
    BLOCK,
    BLOCKS,
    BY_MASK,
    BY_TILT,
    CELL,
    CELLS,
    GRAIN,
    SPAN,
    WIDE,
    Wish,
    bits_of,
)
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.choose.tilt import Tilt
from tests.missing import needs
from tests.runtime.choose.asking import KINDS

FIRST, ROWS, HEAT = 777, 5000, 0.7  # no multiple of a word, a run or a block


def answers_of(kind, allowed):
    answers = KINDS[kind](FIRST)
    rng = np.random.default_rng(2)
    biases = tuple((int(token), 3.0) for token in rng.choice(FIRST + ROWS + 500, 40, replace=False))
    sampling = Sampling(repetition_penalty=1.3, frequency_penalty=0.2, logit_bias=biases)
    answers.tilt(1, True, Tilt(sampling).changes(rng.integers(0, FIRST + ROWS + 500, 3000).tolist()))
    answers.mask(1, bits_of(allowed))
    return answers


def masks():
    rng = np.random.default_rng(3)
    few = np.zeros(FIRST + ROWS, bool)
    few[[5, FIRST, FIRST + 64, FIRST + ROWS - 1]] = True
    short = rng.random(FIRST + 2000) < 0.5  # of a tokenizer that knows fewer
    return {"half": rng.random(FIRST + ROWS) < 0.5, "few": few, "short": short, "none": np.zeros(FIRST + ROWS, bool)}


@needs("the communicator")
@pytest.mark.parametrize("name", masks())
def test_cpp_and_numpy_answer_alike(name):
    rng = np.random.default_rng(4)
    logits = np.round(np.float32(rng.standard_normal(ROWS) * 3), 2)  # with ties
    told = {kind: answers_of(kind, masks()[name]) for kind in ("c++", "numpy")}
    for changed, likely in itertools.product((0, BY_TILT, BY_MASK, BY_TILT | BY_MASK), (-1, 0, 7)):
        top = int(np.floor(logits.max() * 1.5 / HEAT * GRAIN))
        asked = [
            *((Wish(n, likely, changed, heat), 0, 0) for n in (1, 2, 60, 300, ROWS + 1) for heat in (0.0, HEAT)),
            (Wish(BLOCKS, likely, changed, HEAT), 0, 0),
            (Wish(WIDE - 300, likely, changed, HEAT), 0, 0),
            (Wish(CELLS, likely, changed, HEAT), top, 500),
            *((Wish(CELL, likely, changed, HEAT), top, cell) for cell in (0, 250, 499)),
            *((Wish(SPAN, likely, changed), start, BLOCK) for start in (0, 700, 3000, FIRST + ROWS - 9, 99999)),
        ]
        for wish, start, count in asked:
            found, wanted = (
                told[kind].answer(logits, 1, wish._replace(start=start, count=count)) for kind in ("c++", "numpy")
            )
            assert len(found) == len(wanted), wish
            if wish.wanted > 0:  # an id beside -inf means nothing, nor does the model's own logit of it
                rows = min(wish.wanted, ROWS)
                for column in range(1, 2 + (likely >= 0)):
                    columns = (m[1 + column * rows : 1 + (column + 1) * rows] for m in (found, wanted))
                    for each in columns:
                        each[wanted[1 : 1 + rows] == -np.inf] = 0
            np.testing.assert_allclose(found, wanted, rtol=1e-9 if likely < 0 else 1e-6, atol=1e-280)


def test_what_is_told_of_single_logits_is_exact():
    logits = np.float32(np.random.default_rng(5).standard_normal(ROWS) * 3)
    for kind in KINDS:
        answers = answers_of(kind, masks()["half"])
        _, *told = answers.answer(logits, 1, Wish(20))
        order = np.lexsort((np.arange(ROWS), -logits))[:20]
        assert told[:20] == logits[order].astype(float).tolist() and told[20:] == (order + FIRST).tolist()
