"""Bytes, seconds and rates as people write them: "4G", "25us", "1.2GB/s".

In: a word. Out: a number, or what was expected.
"""

from __future__ import annotations

import re

from mpsplit.errors import PlanError

# decimal for what is sent or read, binary for memory, as vendors and systems count them
POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"


def memory_bytes(word: str) -> int:
    """4G and 4GiB are 4 * 2^30 bytes."""
    found = _match(rf"{NUMBER}\s*([KMGT]?)(?:i?B)?", word, "an amount of memory such as 4G or 512M")
    return int(float(found[1]) * 1024 ** POWERS[found[2].upper()])


def bytes_per_second(word: str) -> float:
    """1.2GB/s is 1.2 * 10^9."""
    found = _match(rf"{NUMBER}\s*([KMGT]?)(?:B(?:/s)?)?", word, "bytes a second such as 117MB/s or 20GB/s")
    return float(found[1]) * 1000 ** POWERS[found[2].upper()]


def flop_per_second(word: str) -> float:
    """1T is 10^12."""
    found = _match(rf"{NUMBER}\s*([KMGT]?)", word, "flop a second such as 100G or 1T")
    return float(found[1]) * 1000 ** POWERS[found[2].upper()]


def seconds(word: str) -> float:
    """A plain number is in seconds."""
    found = _match(rf"{NUMBER}\s*(s|ms|us|ns)?", word, "a time such as 100us or 1ms")
    return float(found[1]) * SECONDS[(found[2] or "s").lower()]


def several(word: str, parse) -> list:
    return [parse(part.strip()) for part in word.split(",")]


def _match(pattern: str, word: str, expected: str) -> re.Match:
    found = re.fullmatch(pattern, word.strip(), re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise PlanError(f"{word!r} is not {expected}")
    return found
