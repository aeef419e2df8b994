"""A contender's end of the pipe: it warms up, says that it is ready, plays a round for each order,
and sleeps in between.

In: a line with the number of threads for each round, then `end`. Out: a line of JSON each: tokens a
second by name. Imported by the scripts beside it, which run in different Python environments:
nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

LENGTHS, NEW_TOKENS = (128, 512), 64
CONTEXT = 1024  # of contenders that ask for one


def serve(play: Callable[[int], dict[str, float]]) -> None:
    """`play` takes the threads and plays a round with them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for order in iter(sys.stdin.readline, "end\n"):
        if not order:  # whoever gave the orders is gone
            break
        print(json.dumps(play(int(order))), file=answers, flush=True)


def timed_round(prefill: Callable[[int], None], decode: Callable[[int], None]) -> dict[str, float]:
    """Prefill of each length from nothing, longest first, then single tokens, at the position they
    are given."""
    found = {}
    for length in sorted(LENGTHS, reverse=True):
        began = time.perf_counter()
        prefill(length)
        found[f"prefill {length}"] = length / (time.perf_counter() - began)
    began = time.perf_counter()
    for position in range(length, length + NEW_TOKENS):
        decode(position)
    found["decode"] = NEW_TOKENS / (time.perf_counter() - began)
    return found
