"""A server that is started again when its ranks fail.

In: how to start it. Out: the exit code of a start that somebody ended, or a LaunchError when it
never gets ready. Invariant: between two starts there is a pause, twice as long each time. What
cannot be started at first is not tried again; later it is, for a machine may come back.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mpsplit.errors import LaunchError
from mpsplit.mpirun import RANK_FAILED, Ended

FIRST, LONGEST = 1.0, 60.0  # seconds of a pause
GOOD = 180.0  # seconds of running after which the pauses begin anew
TRIES = 5  # starts in a row that never got ready


def keep_running(start: Callable[[], Ended], pause: float = FIRST) -> int:
    never, first = 0, True
    with asked_to_end() as asked:
        while True:
            began = time.monotonic()
            ended = start() if first else _started(start)
            first = False
            if ended.asked or ended.code == 0:
                return ended.code
            ran = time.monotonic() - began
            never = 0 if ended.ready else never + 1
            if never == TRIES:
                raise LaunchError(f"it ended {TRIES} times before it was ready, and is not started again; see above")
            pause = FIRST if ended.ready and ran > GOOD else pause
            why = ended.why or f"it ended with {ended.code}"
            _say(f"{why}, after {ran:.0f} s; it is started again in {pause:g} s")
            if asked.wait(pause):
                return ended.code
            pause = min(2 * pause, LONGEST)


def _started(start: Callable[[], Ended]) -> Ended:
    try:
        return start()
    except LaunchError as wrong:
        return Ended(RANK_FAILED, str(wrong))


def _say(text: str) -> None:
    print(f"mpsplit: {text}", file=sys.stderr, flush=True)


@contextmanager
def asked_to_end() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT, while the block runs and nothing else hears them."""
    asked = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
