"""Numbers that cannot be, refused before the work. In: arguments. Out: nothing, or a RunError."""

from __future__ import annotations

import argparse

from mpsplit.errors import RunError


def at_least_one(args: argparse.Namespace, *names: str) -> None:
    """Those that were given; None is an option left out."""
    for name in names:
        if (value := getattr(args, name)) is not None and value < 1:
            raise RunError(f"--{name.replace('_', '-')} {value} is out of range; it must be at least 1")
