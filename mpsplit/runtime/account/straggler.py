"""Whom the others wait for.

In: accounts, a rank each. Out: the straggler, or None where the ranks are even.

A rank that is late makes its peers wait, and those theirs: so what counts is how long others waited
for a rank, less how long it waited itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpsplit.comm.link_counts import NANO, WAITED
from mpsplit.runtime.account.account import Account

NOTABLE = 0.05  # of the time; less is chance


class Straggler(NamedTuple):
    """`seconds` that others waited for it, beyond its own waits; `share`, of the time that steps
    took."""

    rank: int
    seconds: float
    share: float


def straggler(accounts: Sequence[Account]) -> Straggler | None:
    took = max((account.prompt + account.token for account in accounts), default=0)
    if len(accounts) < 2 or not took:
        return None
    waits = np.array([account.passed[:, WAITED] for account in accounts])  # [who, for whom]
    lead = waits.sum(0) - waits.sum(1)
    worst = int(lead.argmax())
    share = float(lead[worst] / took)
    return Straggler(worst, float(lead[worst] * NANO), share) if share > NOTABLE else None
