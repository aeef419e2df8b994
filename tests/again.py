"""What may be tried again when it failed.

In: tests that failed. Out: nothing, or the end of the run.
"""

from __future__ import annotations

import pytest

MOST = 2


def check_again(failed: list[str], clocked: list[str]) -> None:
    """A busy machine may make a test fail that looks at the clock, and few of them. Whatever else
    failed has failed."""
    if failed != clocked:
        raise pytest.UsageError(f"not tried again, for not all of them look at the clock: {', '.join(failed)}")
    if len(failed) > MOST:
        raise pytest.UsageError(f"not tried again, for {len(failed)} failed, more than {MOST}")
