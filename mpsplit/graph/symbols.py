"""Sizes that only a step knows, such as rows or past+rows.

In: text. Out: a Size: a whole number plus multiples of symbols.

Invariant: equal sizes have equal texts, so that a size prints and parses back unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mpsplit.errors import GraphError

SYMBOL = r"[A-Za-z_]\w*"
TERM = re.compile(rf"([+-]?)(?:(?:(\d{{1,18}})\*)?({SYMBOL})|(\d{{1,18}}))", re.ASCII)


@dataclass(frozen=True)
class Size:
    """`constant` plus, for each (symbol, factor) of `terms`, so many times that symbol; `terms` are
    in the order of their symbols, without factors of 0."""

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, constant: int, factors: Mapping[str, int]) -> Size:
        return cls(constant, tuple(sorted((symbol, factor) for symbol, factor in factors.items() if factor)))

    @classmethod
    def parse(cls, text: str) -> Size:
        constant, at = 0, 0
        factors: dict[str, int] = {}
        while found := TERM.match(text, at):
            if at and not found[1]:
                break
            sign = -1 if found[1] == "-" else 1
            if found[3]:
                factors[found[3]] = factors.get(found[3], 0) + sign * int(found[2] or 1)
            else:
                constant += sign * int(found[4])
            at = found.end()
        if at != len(text) or not text:
            raise GraphError(f"{text[:40]!a} is no size; a size is written like 128, rows or 2*past+rows")
        return cls.of(constant, factors)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(symbol for symbol, _ in self.terms)

    @property
    def number(self) -> int | None:
        """None where symbols are in it."""
        return None if self.terms else self.constant

    def value(self, numbers: Mapping[str, int]) -> int:
        if lacking := [symbol for symbol in self.symbols if symbol not in numbers]:
            raise GraphError(
                f"{self} needs a number for {', '.join(lacking)}; there are numbers for {', '.join(numbers) or 'none'}"
            )
        return self.constant + sum(factor * numbers[symbol] for symbol, factor in self.terms)

    def __add__(self, other: Size) -> Size:
        factors = dict(self.terms)
        for symbol, factor in other.terms:
            factors[symbol] = factors.get(symbol, 0) + factor
        return Size.of(self.constant + other.constant, factors)

    def __str__(self) -> str:
        parts = [("-" if factor < 0 else "+") + _times(abs(factor)) + symbol for symbol, factor in self.terms]
        if self.constant or not parts:
            parts.append(f"{self.constant:+d}")
        return "".join(parts).removeprefix("+")


def _times(factor: int) -> str:
    return "" if factor == 1 else f"{factor}*"
