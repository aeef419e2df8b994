"""Names that differ by numbers, as one name with an index.

In: model.layers.2.norm.weight and model.layers.3.norm.weight. Out: a Template, whose text is
model.layers.{layer}.norm.weight.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mpsplit.graph.symbols import Size

DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Template:
    """The name of the first turn, and by how much each number in it grows from turn to turn."""

    first: str
    growth: tuple[int, ...]

    @classmethod
    def of(cls, first: str, second: str) -> Template | None:
        """None where the names differ by more than numbers, or not at all."""
        if first == second or shape_of(first) != shape_of(second):
            return None
        made = cls(first, tuple(b - a for a, b in zip(numbers_of(first), numbers_of(second), strict=True)))
        return made if (made.name(0), made.name(1)) == (first, second) else None

    @property
    def grown(self) -> list[tuple[int, int]]:
        """Each number of the first name, and its growth."""
        return list(zip(numbers_of(self.first), self.growth, strict=True))

    @property
    def begins(self) -> int | None:
        """The first number that grows by one."""
        return next((number for number, growth in self.grown if growth == 1), None)

    def name(self, turn: int) -> str:
        return self._with([str(number + turn * growth) for number, growth in self.grown])

    def text(self, index: str, begins: int) -> str:
        """With an index that is `begins` in the first turn."""
        sizes = (Size.of(number - growth * begins, {index: growth}) for number, growth in self.grown)
        return self._with([f"{{{size}}}" if size.terms else str(size) for size in sizes])

    def _with(self, numbers: list[str]) -> str:
        left = iter(numbers)
        return DIGITS.sub(lambda _: next(left), self.first)


def numbers_of(name: str) -> list[int]:
    return [int(found) for found in DIGITS.findall(name)]


def shape_of(name: str) -> str:
    """The name without its numbers."""
    return DIGITS.sub("#", name)
