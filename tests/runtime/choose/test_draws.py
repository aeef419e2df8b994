"""The randomness of a choice is numpy's Philox."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mpsplit.runtime.choose.draws import uniform


def expected(seed, step):
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64))).random()


def test_it_is_numpys_philox_whatever_was_drawn_before_and_in_any_thread():
    keys = [(seed, step) for seed in (0, 7, 2**63, 2**64 - 1) for step in (0, 1, 32000)]
    wanted = [expected(*key) for key in keys]
    with ThreadPoolExecutor(4) as threads:
        assert [uniform(*key) for key in keys] == list(threads.map(lambda key: uniform(*key), keys)) == wanted
