"""Poolings, as formulas."""

import numpy as np
import pytest

from mpsplit.package.stages.sentence_settings import OLDER, SentenceSettings
from mpsplit.runtime.pipeline.pooling import POOLINGS, cosines, embedding

STATES = np.array([[1, 5], [2, 0], [6, -2]], np.float32)
EXPECTED = {
    "cls": [1, 5],
    "max": [6, 5],
    "mean": [3, 1],
    "mean_sqrt_len_tokens": [9 / 3**0.5, 3 / 3**0.5],
    "weightedmean": [(1 + 4 + 18) / 6, (5 + 0 - 6) / 6],
    "lasttoken": [6, -2],
}


@pytest.mark.parametrize("name", OLDER)
def test_each(name):
    assert list(POOLINGS) == list(OLDER) == list(EXPECTED)
    found = embedding(STATES, SentenceSettings((name,), normalise=False))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, EXPECTED[name], rtol=1e-6)


def test_several_are_joined_and_then_normalised():
    found = embedding(STATES, SentenceSettings(("cls", "mean"), normalise=True))
    np.testing.assert_allclose(found, np.array([1, 5, 3, 1]) / 6, rtol=1e-6)
    np.testing.assert_allclose(embedding(STATES, None), np.array([3, 1]) / 10**0.5, rtol=1e-6)
    assert not embedding(STATES * 0, None).any()


def test_cosines():
    found = cosines(np.array([[1, 0], [2, 2], [0, -3]], np.float32))
    np.testing.assert_allclose(found, [[1, 0.5**0.5, 0], [0.5**0.5, 1, -(0.5**0.5)], [0, -(0.5**0.5), 1]], atol=1e-12)
