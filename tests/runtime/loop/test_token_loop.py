"""The token loop over an engine that is a table: what it feeds, when it stops, what it reuses."""

import numpy as np
import pytest

from mpsplit.comm import Alone
from mpsplit.errors import RunError
from mpsplit.runtime.choose.answers import bits_of
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.loop.loop_protocol import Request
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.loops import TableEngine


def loop(chunk=4):
    return TokenLoop(TableEngine(), Alone(), None, chunk)


def test_prompts_go_in_chunks_and_tokens_one_by_one():
    token_loop = loop()
    result = token_loop.generate(Request((1, 2, 3, 4, 5, 6), 3))
    assert result.token_ids == (7, 8, 9) and result.finish_reason == "length"
    assert token_loop.engine.steps == [(0, [1, 2, 3, 4]), (4, [5, 6]), (6, [7]), (7, [8])]
    assert result.stats.prompt_tokens == 6 and result.stats.new_tokens == 3 and len(result.stats.peak_rss_bytes) == 1


def test_it_stops_at_eos_unless_told_not_to():
    assert loop().generate(Request((126,), 10)).token_ids == (127, 128, 129, 130)
    assert loop().generate(Request((126,), 10)).finish_reason == "eos"
    ignoring = loop().generate(Request((126,), 10, ignore_eos=True))
    assert ignoring.token_ids == (127, 128, 129, 130, 0, 1, 2, 3, 4, 5) and ignoring.finish_reason == "length"


class Evens:
    """A grammar of ascending even tokens."""

    def __init__(self):
        self.last = -1

    def allowed(self):
        ids = np.arange(131)
        return bits_of((ids % 2 == 0) & (ids > self.last))

    def accept(self, token):
        self.last = token


def test_a_grammar_and_log_probabilities_reach_every_choice():
    pieces = []
    token_loop = loop()
    token_loop.submit(Request((1, 2, 3), 3, logprobs=2, grammar=Evens), pieces.append)
    while token_loop.turn():
        pass
    chosen = [each for piece in pieces[:-1] for each in piece.chosen]
    # after 3 comes 4, and then 5, which is odd: of what is left the first even one that is higher
    assert [each.id for each in chosen] == [4, 6, 8] and pieces[-1].token_ids == (4, 6, 8)
    best, other = (logit - np.log(np.exp(5) + 130 * np.exp(1)) for logit in (5, 1))
    assert [each.logprob for each in chosen] == pytest.approx([best, other, other])
    assert [[token for token, _ in each.likely] for each in chosen] == [[4, 0], [5, 0], [7, 0]]


def test_it_stops_at_the_end_of_the_context():
    result = loop().generate(Request(tuple(range(120)), 64, ignore_eos=True))
    assert result.finish_reason == "context" and len(result.token_ids) == 128 - 120


def test_a_conversation_that_goes_on_feeds_only_what_is_new():
    token_loop = loop(100)
    first = token_loop.generate(Request((1, 2, 3), 2))
    token_loop.engine.steps.clear()
    second = token_loop.generate(Request((1, 2, 3, *first.token_ids, 9), 1))
    assert token_loop.engine.steps == [(4, [5, 9])] and second.stats.cached_tokens == 4
    token_loop.engine.steps.clear()
    assert token_loop.generate(Request((1, 2, 9), 1)).stats.cached_tokens == 2
    assert token_loop.engine.steps == [(2, [9])]
    assert token_loop.generate(Request((9, 2), 1)).stats.cached_tokens == 0


def test_penalties_reach_the_choice():
    assert loop().generate(Request((3, 4, 3), 1)).token_ids == (4,)
    punished = loop().generate(Request((3, 4, 3), 1, Sampling(top_k=0, repetition_penalty=10)))
    assert punished.token_ids == (0,)


@pytest.mark.parametrize(
    "request_, message",
    [
        (Request(tuple([1] * 128)), "the prompt has 128 tokens, the context 128; shorten it to 127 or fewer"),
        (Request(()), "the prompt is empty"),
        (Request((1, 131)), "token 131 is not in the vocabulary of 131; ids go from 0 to 130"),
        (Request((1,), sampling=Sampling(logit_bias=((131, 1.0),))), "logit_bias names token 131, which is not in"),
        (Request((-1,)), "token -1 is not in the vocabulary"),
        (Request((1,), 0), "--max-new-tokens 0 is out of range"),
        (Request((1,), stops=("x",)), "stop strings need a tokenizer"),
    ],
)
def test_requests_that_cannot_be_answered(request_, message):
    with pytest.raises(RunError, match=message):
        loop().generate(request_)


def test_an_engine_that_keeps_nothing_says_so():
    token_loop = loop()
    token_loop.engine.name = "table"
    with pytest.raises(RunError, match="the table engine cannot keep its cache on disk"):
        token_loop.generate(Request((1, 2), saves="sessions/key-1/x"))
