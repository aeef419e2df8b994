"""Seconds that a silent rank is waited for, whichever transport carries the messages.

In: MPSPLIT_TIMEOUT. Out: a number; 0 is for ever.
"""

from __future__ import annotations

import os

from mpsplit.errors import RunError


def timeout() -> float:
    given = os.environ.get("MPSPLIT_TIMEOUT", "30")
    try:
        return float(given)
    except ValueError:
        raise RunError(f"MPSPLIT_TIMEOUT={given} is no number of seconds, such as 30") from None
