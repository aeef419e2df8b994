"""How linear weights are stored: bits and block, and the layer that stands for them in the graph.

In: "q4" from the command line. Out: a Quantisation; a QLinear layer's parameters by name. The
packed form of a QLinear's matrix belongs to the kernels (extensions/kernels), which make it and
read it; that of a Gemm's to ncnn (export/weights/gemm_blocks.py).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from mpsplit.errors import ConvertError, PackageError
from mpsplit.package.param_text import Layer, Param

# how a graph says them (extensions/kernels/forms.h); from fine to coarse. q4, q3 and q2 are of 16,
# 8 and 4 values by a table, i4 of integers: what q4 was in 0.1.0, and what ncnn's own layout has.
# m5 and m4 have a minimum in each block, beside its scale, as a GGUF file's Q5_1 and Q4_1. k6 to k2
# and x4 are its Q6_K to Q2_K and IQ4_XS: blocks of 256, whose parts have scales of their own
KINDS = {
    "f32": 0, "bf16": 16, "q8": 8, "k6": 70, "q6": 6, "m5": 37, "k5": 101, "m4": 36, "k4": 100, "q4": 20, "x4": 84,
    "i4": 4, "k3": 67, "q3": 19, "k2": 98, "q2": 18,
}  # fmt: skip
MINIMUMS = (36, 37, 98, 100, 101)
PARTS, PARTS_BLOCK = {67: 16, 70: 16, 84: 8, 98: 16, 100: 8, 101: 8}, 256  # of a block of so many
NIBBLES = (98,)  # a part's scale and minimum, in one byte
GIVEN = (*MINIMUMS, *PARTS)  # blocks that come as they are
ROUNDED = tuple(kind for kind, bits in KINDS.items() if bits not in GIVEN)  # what floats become
TABLE = 20
# closer near zero, where weights are many: GGUF's IQ4_NL; the shorter ones are ours
# (extensions/kernels/forms.h says where they come from)
TABLE_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TABLES = {TABLE: TABLE_VALUES, 84: TABLE_VALUES, 19: (-32, -19, -11, -5, 1, 7, 15, 25), 18: (-16, -5, 2, 11)}
# what files of them go by, which stays: integers of 4 bits were q4 when packages were made already
ADDRESSES = {"i4": "q4", "q4": "t4"}
# bits in memory of what is not called by them
STORED = {TABLE: 4, 19: 3, 18: 2, 36: 4, 37: 5, 67: 3, 70: 6, 84: 4, 98: 2, 100: 4, 101: 5}
BLOCKS = (32, 64, 128)
BFLOAT = 16  # bits of the kind without scales
BFLOAT_BLOCK = 32  # what the kernels pad inputs to; they need not be a multiple of it
LAYER = "QLinear"
GEMM = "Gemm"
# a Gemm's parameter for bits and block, 0 for float32: hundreds are the bits, ones the place in
# BLOCKS
TERM = "18"
# of a packed matrix (extensions/kernels/layout.h): outputs of a panel, bytes of a line, inputs of a
# chunk
PANEL, LINE, CHUNK = 16, 64, 32
# ncnn reads parameters into an int: a matrix of more bytes says BY_SHAPE, and n, k, bits and block
# tell its size
MOST_NUMBER = (1 << 31) - 1
SIZE, BY_SHAPE = "5", "-1"


def coarseness(kind: str) -> int:
    """More of what loses more."""
    return [*KINDS].index(kind)


@dataclass(frozen=True)
class Quantisation:
    """`bits` is 0 for float32, 16 for bfloat16, 18, 19 and 20 for 2, 3 and 4 by a table, 36 and 37
    for 4 and 5 with a minimum, 64 and more for blocks of parts; of all others every `block`
    neighbours along the inputs share one 16-bit scale."""

    bits: int = 0
    block: int = 32

    @classmethod
    def named(cls, kind: str, block: int) -> Quantisation:
        if kind not in KINDS or block not in BLOCKS and not (block == PARTS_BLOCK and KINDS[kind] in PARTS):
            raise ConvertError(
                f"--quant {kind} --block {block}: kinds are {', '.join(KINDS)}, blocks {', '.join(map(str, BLOCKS))}"
            )
        bits = KINDS[kind]
        return cls(bits, BFLOAT_BLOCK if bits == BFLOAT else PARTS_BLOCK if bits in PARTS else block)

    @property
    def kind(self) -> str:
        return next(kind for kind, bits in KINDS.items() if bits == self.bits)

    def __str__(self) -> str:
        said = ((self.parts, f", in {self.parts} parts"), (self.by_table, ", by table"),
                (self.has_minimum, ", with a minimum"))  # fmt: skip
        more = "".join(text for is_so, text in said if is_so)
        return f"{self.stored_bits} bits x {self.block}{more}" if self.bits else "float32"

    @classmethod
    def of(cls, layer: Layer) -> Quantisation | None:
        """How a linear layer's matrix is stored; None for other layers."""
        if layer.type == LAYER:
            q = QLinear.of(layer)
            return cls(q.bits, q.block)
        return cls.of_gemm(layer) if layer.type == GEMM else None

    @classmethod
    def of_gemm(cls, gemm: Layer) -> Quantisation:
        """How a Gemm's matrix is stored."""
        term = gemm.number(TERM, 0)
        if term not in TERMS:
            raise PackageError(
                f"{gemm.name!a} has {TERM}={term}, which must be one of {', '.join(map(str, sorted(TERMS)))}"
            )
        return TERMS[term]

    @property
    def step(self) -> float:
        """The widest between two values in a row, where the largest is 1; of a table, also twice
        what 1 is beyond its upper end; with a minimum, where that is -1."""
        if self.has_minimum:
            return 2 / -self.lowest
        if self.by_table:
            beyond = -self.table[0] - self.table[-1]
            return max(2 * beyond, *(b - a for a, b in pairwise(self.table))) / -self.lowest
        return 1 / (-self.lowest - 1)

    @property
    def lowest(self) -> int:
        """The least value, which is the farthest from 0; of what has a minimum, below the
        largest."""
        if self.has_minimum:
            return 1 - (1 << self.stored_bits)
        return self.table[0] if self.by_table else -(2 ** (self.stored_bits - 1))

    @property
    def address(self) -> str:
        """What tells files of it from others."""
        return f"{ADDRESSES.get(self.kind, self.kind)}/{self.block}"

    @property
    def stored_bits(self) -> int:
        """Of a weight in memory."""
        return STORED.get(self.bits, self.bits)

    @property
    def has_minimum(self) -> bool:
        return self.bits in MINIMUMS

    @property
    def by_table(self) -> bool:
        return self.bits in TABLES

    @property
    def table(self) -> tuple[int, ...]:
        """Its values, rising; none of what is of integers."""
        return TABLES.get(self.bits, ())

    @property
    def parts(self) -> int:
        """Of a block, with scales of 8 bits; 0 where a block has none."""
        return PARTS.get(self.bits, 0)

    @property
    def is_given(self) -> bool:
        """Whether its blocks come as they are: no floats are rounded to it."""
        return self.bits in GIVEN

    @property
    def numbers(self) -> int:
        """That a block has beside its integers: its scale, its minimum; those of its parts."""
        return (1 + self.has_minimum) * (1 + self.parts)

    @property
    def one_scale(self) -> int:
        """Neighbours along the inputs that have one scale."""
        return self.block // (self.parts or 1)

    @property
    def inputs_block(self) -> int:
        """Neighbours among the inputs that the kernels round with one scale."""
        return CHUNK if self.parts else self.block

    @property
    def head_lines(self) -> float:
        """Of a panel, that a block has for all its numbers."""
        each = 1 if self.bits in NIBBLES else 1 + self.has_minimum
        return 1 + self.parts * PANEL * each // LINE if self.parts else each / 2

    @property
    def evenly(self) -> Quantisation:
        """In integers of as many bits, which any ncnn has."""
        return Quantisation(self.stored_bits, self.block)

    @property
    def term(self) -> int:
        return 100 * self.bits + BLOCKS.index(self.block)

    def fits(self, inputs: int) -> bool:
        return self.bits in (0, BFLOAT) or inputs % self.block == 0


FLOAT = Quantisation()
TERMS = {kind.term: kind for kind in (Quantisation(bits, block) for bits in (8, 6, 4) for block in BLOCKS)} | {0: FLOAT}


@dataclass(frozen=True)
class QLinear:
    """The parameters of a QLinear layer, in the order of their ids; offsets in units of
    weights.ALIGNMENT, bias -1 for none."""

    n: int
    k: int
    bits: int
    block: int
    offset: int
    bytes: int
    bias: int

    def params(self) -> dict[str, str]:
        numbers = {str(i): str(getattr(self, field.name)) for i, field in enumerate(fields(self))}
        return numbers | ({SIZE: BY_SHAPE} if self.bytes > MOST_NUMBER else {})

    @classmethod
    def of(cls, layer: Layer, first: int = 0) -> QLinear:
        """That whose parameters begin at the id `first`."""
        return cls.of_numbers(*(layer.number(str(first + i)) for i in range(len(fields(cls)))))

    @classmethod
    def of_numbers(cls, *numbers: int) -> QLinear:
        linear = cls(*numbers)
        return replace(linear, bytes=linear.packed_bytes) if str(linear.bytes) == BY_SHAPE else linear

    @property
    def packed_bytes(self) -> int:
        """What the kernels make of such a matrix (extensions/kernels/layout.h); 0 of what they
        refuse."""
        panels = -(-self.n // PANEL)
        if self.bits == BFLOAT:
            return panels * -(-self.k // BFLOAT_BLOCK) * BFLOAT * LINE if self.block == BFLOAT_BLOCK else 0
        blocks_of_kind = (PARTS_BLOCK,) if self.bits in PARTS else BLOCKS
        if self.bits not in KINDS.values() or self.block not in blocks_of_kind or self.k % self.block:
            return 0
        how, blocks = Quantisation(self.bits, self.block), self.k // self.block
        return panels * (math.ceil(blocks * how.head_lines) + blocks * self.block // CHUNK * how.stored_bits) * LINE

    @property
    def reading(self) -> tuple[int, bool]:
        """How it reads its input, which products of one layer must have in common: the block, and
        whether in bfloat16."""
        return Quantisation(self.bits, self.block).inputs_block, self.bits == BFLOAT


def kind_of(param: Param) -> str:
    """How most of a graph's linear weights are stored: a key of KINDS."""
    linears = Counter(kind.bits for kind in map(Quantisation.of, param.layers) if kind and kind.bits)
    bits = linears.most_common(1)[0][0] if linears else FLOAT.bits
    if bits not in KINDS.values():
        raise PackageError(f"a linear is stored in {bits} bits, it must be one of {', '.join(KINDS)}; convert again")
    return Quantisation(bits).kind
