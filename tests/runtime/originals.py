"""What transformers makes of the models of the tests, once a family.

In: a family. Out: on rank 0 what a function makes of the folder of its model; None on the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path


def once_a_family(world, model_of, run: Callable[[Path], object]):
    @functools.cache
    def original(family):
        folder = model_of(family)
        return None if world.rank else run(folder)

    return original
