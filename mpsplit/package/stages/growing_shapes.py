"""Shapes whose length may grow, as text and as numbers.

In: sizes such as 384, "length", "4*length" or "length-1". Out: numbers, at a length; or the length,
from the shape of an array.

Invariant: a text that is none of these is refused, so nothing of a package is ever evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mpsplit.errors import PackageError, RunError

LENGTH = "length"
FORM = re.compile(rf"(?:([1-9][0-9]{{0,5}})\*)?{LENGTH}(?:([+-])([1-9][0-9]{{0,5}}))?", re.ASCII)
LARGEST = 1 << 24
Size = int | str
Shape = tuple[Size, ...]


def size_kind(value: Any, where: str) -> None:
    """For the tables of json_fields.py."""
    if type(value) is int and 0 <= value <= LARGEST or type(value) is str and FORM.fullmatch(value):
        return
    raise PackageError(f"{where} is no size: a number up to {LARGEST}, or such as 4*{LENGTH}+1")


def number(size: Size, length: int) -> int:
    if isinstance(size, int):
        return size
    found = FORM.fullmatch(size)
    assert found, f"{size!r} was looked over"
    times, sign, more = found.groups()
    return int(times or 1) * length + (int(more) if sign == "+" else -int(more or 0))


def numbers(shape: Shape, length: int) -> tuple[int, ...]:
    return tuple(number(size, length) for size in shape)


def text_of(shape: Sequence[Size]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def grows(shape: Shape) -> bool:
    return any(isinstance(size, str) for size in shape)


def length_of(shapes: Mapping[str, Shape], given: Mapping[str, tuple[int, ...]], longest: int) -> int:
    """The length that arrays of these shapes have, or what does not fit; 1 where nothing grows."""
    length: int | None = None
    for name, shape in shapes.items():
        have = given[name]
        fits = len(have) == len(shape)
        for size, actual in zip(shape, have, strict=False):
            if size == LENGTH:
                length = actual if length is None else length
                fits &= actual == length
            elif isinstance(size, int):
                fits &= actual == size
        if not fits:
            raise RunError(f"{name} has shape {list(have)}, the model takes {text_of(shape)}")
    if length is not None and longest and not 1 <= length <= longest:
        raise RunError(f"the input has a length of {length}, the model has room for 1 to {longest}; give it less")
    return 1 if length is None else length
