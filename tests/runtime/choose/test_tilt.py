"""What a request does to logits: told change by change, the same as counted anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.runtime.choose.answers import BY_TILT, Wish
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.choose.tilt import Tilt
from tests.runtime.choose.asking import KINDS


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(0, 5),
    st.sampled_from([(), ((2, 1.5), (7, -100.0))]),
)
def test_changes_add_up(pieces, window, biases):
    sampling = Sampling(repetition_penalty=1.3, frequency_penalty=0.25, penalty_window=window, logit_bias=biases)
    logits = np.linspace(-2, 2, 10, dtype=np.float32)
    tilt, told, history = Tilt(sampling), {kind: make(0) for kind, make in KINDS.items()}, []
    for piece in pieces:
        history += piece
        changes, fresh, tilt.fresh = tilt.changes(history), tilt.fresh, False
        for kind, make in KINDS.items():
            if len(changes):
                told[kind].tilt(3, fresh, changes)
            anew = make(0)
            anew.tilt(3, True, Tilt(sampling).changes(history))
            seen, expected = (each.answer(logits, 3, Wish(10, changed=BY_TILT))[1:] for each in (told[kind], anew))
            assert seen.tolist() == expected.tolist()


def test_a_step_tells_little_and_a_request_that_changes_nothing_tells_nothing():
    tilt = Tilt(Sampling(presence_penalty=0.5))
    tilt.fresh = not len(tilt.changes(list(range(1000))))
    assert len(tilt.changes([*range(1000), 5])) == 3 + 3
    assert not Tilt(Sampling(1.0, 5, 0.9)) and Tilt(Sampling(logit_bias=((1, 1.0),)))
