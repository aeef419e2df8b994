"""What a failure ends. The one place that says so.

In: whatever is raised while the loop works. Out: what the request hears of it.

One request   What is raised while the loop works for it alone: its grammar, its choice, its text,
              its listener, what is kept for it, its share of a step. It hears an error, its pages
              and its place come back, and the others do not notice.
All ranks     What is raised between the first word of an order and its last answer: nobody knows
              what the other ranks did of it (`Ranks.in_step`). Pages that do not add up: nobody
              knows whose they are (`Pages.add_up`). What is raised while a request is taken in or
              out: nobody knows whether it is there. Every request hears why, and the ranks end.
Nobody        Figures: what was spent, by whom. The log tells it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from mpsplit.comm import Communicator
from mpsplit.errors import MpsplitError, RunError

LOG = logging.getLogger("mpsplit")


class OwnFault(RunError):
    """A mistake of ours ended this request."""


def told(wrong: Exception) -> MpsplitError:
    """What a request hears of what ended it. What is no message for people stands in the log, under
    the same number."""
    if isinstance(wrong, MpsplitError):
        return wrong
    number = secrets.token_hex(4)
    LOG.error("failure %s of one request", number, exc_info=wrong)
    return OwnFault(f"mpsplit failed at this request; its log says why, under {number}")


@contextmanager
def nobodys() -> Iterator[None]:
    """What goes wrong in the block ends nothing."""
    try:
        yield
    except Exception:
        LOG.exception("a figure is missing")


@contextmanager
def telling_all(comm: Communicator) -> Iterator[None]:
    """Why this rank ends is told to all, for clients hear of it."""
    try:
        yield
    except Exception as wrong:
        comm.last_words(str(wrong) if isinstance(wrong, MpsplitError) else repr(wrong))
        raise
