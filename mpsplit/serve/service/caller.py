"""Who calls.

In: a request that was let in. Out: whose turn it is, and whose sessions are its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """`owner`: whose turn it is: that of a key, or, where there is but one or none, of the user
    that the request names, or of an address. `key`: the one that was shown, empty where there is
    none."""

    owner: str
    key: bytes = b""
