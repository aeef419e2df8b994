"""Bytes, seconds and rates as people write them: "4G", "25us", "1.2GB/s".

In: a word. Out: a number, or what was expected. Invariant: the number is above 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from mpsplit.errors import PlanError

# decimal for what is sent or read, binary for memory, as vendors and systems count them
POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"

Value = TypeVar("Value", int, float)


def memory_bytes(word: str) -> int:
    """4G and 4GiB are 4 * 2^30 bytes."""
    match = _match(rf"{NUMBER}\s*([KMGT]?)(?:i?B)?", word, "an amount of memory such as 4G or 512M")
    return int(float(match[1]) * 1024 ** POWERS[match[2].upper()])


def bytes_per_second(word: str) -> float:
    """1.2GB/s is 1.2 * 10^9."""
    match = _match(rf"{NUMBER}\s*([KMGT]?)(?:B(?:/s)?)?", word, "bytes a second such as 117MB/s or 20GB/s")
    return float(match[1]) * 1000.0 ** POWERS[match[2].upper()]


def flop_per_second(word: str) -> float:
    """1T is 10^12."""
    match = _match(rf"{NUMBER}\s*([KMGT]?)", word, "flop a second such as 100G or 1T")
    return float(match[1]) * 1000.0 ** POWERS[match[2].upper()]


def seconds(word: str) -> float:
    """A plain number is in seconds."""
    match = _match(rf"{NUMBER}\s*(s|ms|us|ns)?", word, "a time such as 100us or 1ms")
    return float(match[1]) * SECONDS[(match[2] or "s").lower()]


def several(word: str, parse: Callable[[str], Value]) -> list[Value]:
    """Of words with commas between them."""
    return [parse(part.strip()) for part in word.split(",")]


def _match(pattern: str, word: str, expected: str) -> re.Match[str]:
    match = re.fullmatch(pattern, word.strip(), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise PlanError(f"{word!r} is not {expected}")
    return match
