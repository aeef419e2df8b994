"""The randomness of a choice.

In: a seed, and how long the history is. Out: a number from 0 to below 1, the same everywhere: the
first of numpy's Philox with these two as its key.
"""

from __future__ import annotations

import threading

import numpy as np


class _Generator(threading.local):
    """Of each thread one: to set its state is ten times as fast as to make one."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.fresh = self.philox.state


_GENERATOR = _Generator()


def uniform(seed: int, step: int) -> float:
    fresh = _GENERATOR.fresh
    fresh["state"]["key"][:] = seed, step
    _GENERATOR.philox.state = fresh
    return (_GENERATOR.philox.random_raw() >> 11) * 2.0**-53
