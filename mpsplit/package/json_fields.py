"""What may stand in a JSON file that others wrote.

In: a value, and tables of kinds. Out: nothing, or a PackageError that says where.

A kind is a function of a value and its place. Invariant: what passes has the types that the code
believes, and numbers in bounds, so that nothing is allocated because a file says so. Fields that no
table knows are left alone: newer files have more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from mpsplit.errors import PackageError

Kind = Callable[[Any, str], None]
SHOWN = 40  # characters of a wrong value


def _wrong(value: Any, where: str, wanted: str) -> PackageError:
    shown = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return PackageError(f"{where} is {shown[:SHOWN]}, it must be {wanted}")


def whole(least: int, most: int) -> Kind:
    def check(value: Any, where: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise _wrong(value, where, f"a whole number from {least} to {most}")

    return check


def number(most: float) -> Kind:
    def check(value: Any, where: str) -> None:
        if type(value) not in (int, float) or not -most <= value <= most:  # NaN is not between them
            raise _wrong(value, where, f"a number of at most {most:g}")

    return check


def flag(value: Any, where: str) -> None:
    if type(value) is not bool:
        raise _wrong(value, where, "true or false")


def text(pattern: str, wanted: str) -> Kind:
    form = re.compile(pattern, re.ASCII)

    def check(value: Any, where: str) -> None:
        if type(value) is not str or not form.fullmatch(value):
            raise _wrong(value, where, wanted)

    return check


def one_of(choices: Collection[str]) -> Kind:
    def check(value: Any, where: str) -> None:
        if type(value) is not str or value not in choices:
            raise _wrong(value, where, f"one of {', '.join(choices)}")

    return check


def many(kind: Kind, most: int) -> Kind:
    def check(value: Any, where: str) -> None:
        if type(value) is not list or len(value) > most:
            raise _wrong(value, where, f"a list of at most {most}")
        for i, item in enumerate(value):
            kind(item, f"{where}[{i}]")

    return check


def mapping(kind: Kind, most: int) -> Kind:
    def check(value: Any, where: str) -> None:
        if type(value) is not dict or len(value) > most:
            raise _wrong(value, where, f"an object of at most {most}")
        for name, item in value.items():
            kind(item, f"{where}.{ascii(name)[1:-1][:SHOWN]}")

    return check


def record(table: dict[str, Kind], optional: dict[str, Kind] | None = None) -> Kind:
    """An object with all fields of the table; those of `optional` may be missing."""

    def check(value: Any, where: str) -> None:
        if type(value) is not dict:
            raise _wrong(value, where, "an object")
        for name in table:
            if name not in value:
                raise PackageError(f"{where} has no {name}")
        for name, kind in {**table, **(optional or {})}.items():
            if name in value:
                kind(value[name], f"{where}.{name}")

    return check
