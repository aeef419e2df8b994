"""How to choose: values that are refused."""

from math import inf, nan

import pytest

from mpsplit.errors import RunError
from mpsplit.runtime.choose.sampling import Sampling


@pytest.mark.parametrize(
    "sampling, message",
    [
        (Sampling(temperature=-1), "temperature -1 is out of range; it must be from 0 .greedy. to 100"),
        (Sampling(temperature=nan), "temperature nan is out of range"),
        (Sampling(temperature=inf), "temperature inf is out of range"),
        (Sampling(top_p=0), "top_p 0 is out of range; it must be above 0 and at most 1"),
        (Sampling(top_p=nan), "top_p nan"),
        (Sampling(top_k=-5), "top_k -5"),
        (Sampling(top_k=10**400), "top_k 1000"),
        (Sampling(min_p=1.5), "min_p 1.5 is out of range; it must be from 0 .off. to 1"),
        (Sampling(min_p=nan), "min_p nan"),
        (Sampling(min_keep=0), "min_keep 0"),
        (Sampling(repetition_penalty=0), "repetition_penalty 0"),
        (Sampling(repetition_penalty=inf), "repetition_penalty inf"),
        (Sampling(presence_penalty=2.1), "presence_penalty 2.1 is out of range; it must be from -2 to 2"),
        (Sampling(frequency_penalty=nan), "frequency_penalty nan"),
        (Sampling(penalty_window=-1), "penalty_window -1"),
        (Sampling(seed=-1), "seed -1"),
        (Sampling(seed=1 << 64), "seed 18446744073709551616"),
    ],
)
def test_values_out_of_range(sampling, message):
    with pytest.raises(RunError, match=message):
        sampling.check()


def test_a_bias_may_be_as_strong_as_can_be_and_no_stronger():
    assert Sampling(logit_bias=((1, -100.0), (2, 100.0))).check()
    for bias in (-100.5, 100.5, nan):
        with pytest.raises(RunError, match=r"logit_bias .* of token 3 is out of range; it must be from -100"):
            Sampling(logit_bias=((3, bias),)).check()
