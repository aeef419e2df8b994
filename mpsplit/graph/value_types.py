"""What a value is: its elements, its shape, how it lies in memory.

In: text such as `f32[rows, 128]` or `q4x32[96, 128] panels`. Out: a ValueType, and its bytes.

Shapes are written with the slowest size first, as numpy has them. Invariant: a type that exists has
bytes: its elements, its layout and its number of sizes go together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mpsplit.errors import ConvertError, GraphError
from mpsplit.graph.symbols import Size
from mpsplit.package.stored.quantisation import QLinear, Quantisation

# bytes of an element
PLAIN = {"f32": 4, "bf16": 2, "f16": 2, "i32": 4, "u8": 1, "f64": 8, "i64": 8, "i16": 2, "i8": 1, "bool": 1}
UNKNOWN = "any"  # any[]: what is no array, or of which nobody says what it is
SCALE = 4  # bytes of a block's scale in blocks
ROW_BY_ROW, PANELS, BLOCKS = "rows", "panels", "blocks"
LAYOUTS = {
    ROW_BY_ROW: "one after the other, the last size fastest; not written",
    PANELS: "a matrix as the native engine's kernels read it",
    BLOCKS: "a matrix as ncnn reads it: integers, then a scale a block",
}
KIND = re.compile(r"([a-z][a-z0-9]*?)x(\d{1,4})", re.ASCII)
TYPE_PATTERN = rf"[a-z]\w*\[[^\[\]]*\](?: (?:{PANELS}|{BLOCKS}))?"
TYPE = re.compile(rf"([a-z]\w*)\[([^\[\]]*)\](?: ({PANELS}|{BLOCKS}))?", re.ASCII)


@dataclass(frozen=True)
class ValueType:
    """`element`: of PLAIN, or a kind of quantisation and its block, such as q4x32."""

    element: str
    shape: tuple[Size, ...]
    layout: str = ROW_BY_ROW

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise GraphError(f"{self.layout!a} is no layout; there are {', '.join(LAYOUTS)}")
        for size in self.shape:
            if (number := size.number) is not None and number < 1:
                raise GraphError(f"{self} has a size of {number}; sizes begin at 1")
        if self.layout == ROW_BY_ROW:
            if self.element not in PLAIN and (self.element != UNKNOWN or self.shape):
                raise GraphError(
                    f"{self}: elements of {self.element!a} do not lie in rows; {', '.join(PLAIN)} do, and"
                    f" kinds of quantisation lie in {PANELS} or {BLOCKS}"
                )
        elif len(self.shape) != 2 or any(size.number is None for size in self.shape):
            raise GraphError(f"{self}: only a matrix of two numbers lies in {self.layout}")
        elif self.stored_bytes < 1:
            raise GraphError(f"{self}: no matrix of that kind and size lies in {self.layout}")

    @classmethod
    def parse(cls, text: str) -> ValueType:
        if not (found := TYPE.fullmatch(text)):
            raise GraphError(f"{text[:60]!a} is no type; a type is written like f32[rows, 128]")
        sizes = [word.strip() for word in found[2].split(",")] if found[2].strip() else []
        return cls(found[1], tuple(map(Size.parse, sizes)), found[3] or ROW_BY_ROW)

    @classmethod
    def matrix(cls, n: int, k: int, kind: Quantisation, layout: str) -> ValueType:
        """Of quantised weights."""
        return cls(f"{kind.kind}x{kind.block}", (Size(n), Size(k)), layout)

    @property
    def quantisation(self) -> Quantisation:
        """Of a matrix that is not plain."""
        found = KIND.fullmatch(self.element)
        try:
            kind = Quantisation.named(found[1], int(found[2])) if found else None
        except ConvertError:
            kind = None
        if found is None or kind is None or kind.block != int(found[2]) or not kind.bits:
            raise GraphError(f"{self.element!a} is no kind of element: neither {', '.join(PLAIN)} nor like q4x32")
        return kind

    @property
    def stored_bytes(self) -> int:
        """Of a matrix in panels or blocks; 0 where there is none of that size."""
        (n, k), kind = (size.value({}) for size in self.shape), self.quantisation
        if self.layout == PANELS:
            return QLinear(n, k, kind.bits, kind.block, 0, 0, -1).packed_bytes
        return (n * k * kind.bits // 8 + n * (k // kind.block) * SCALE) if kind.fits(k) else 0

    def bytes(self, numbers: Mapping[str, int]) -> int:
        """With a number for each symbol."""
        if self.element == UNKNOWN:
            raise GraphError(f"nobody says how many bytes {self} has")
        if self.layout != ROW_BY_ROW:
            return self.stored_bytes
        return PLAIN[self.element] * math.prod(size.value(numbers) for size in self.shape)

    def __str__(self) -> str:
        where = "" if self.layout == ROW_BY_ROW else f" {self.layout}"
        return f"{self.element}[{', '.join(map(str, self.shape))}]{where}"


NOT_KNOWN = ValueType(UNKNOWN, ())


def plain(*sizes: int | Size, element: str = "f32") -> ValueType:
    return ValueType(element, tuple(size if isinstance(size, Size) else Size(size) for size in sizes))
