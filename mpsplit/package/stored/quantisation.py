"""How linear weights are stored: bits and block, and the layer that stands for them in the graph.

In: "q4" from the command line. Out: a Quantisation; a QLinear layer's parameters by name. The
packed form of a QLinear's matrix belongs to the kernels (extensions/kernels), which make it and
read it; that of a Gemm's to ncnn (export/weights/gemm_blocks.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import pairwise

from mpsplit.errors import ConvertError, PackageError
from mpsplit.package.param_text import Layer, Param

# how a graph says them (extensions/kernels/forms.h); from fine to coarse. q4 is of 16 values by a
# table, i4 of integers: what q4 was in 0.1.0, and what ncnn's own layout has. m5 and m4 have a
# minimum in each block, beside its scale, as a GGUF file's Q5_1 and Q4_1
KINDS = {"f32": 0, "bf16": 16, "q8": 8, "q6": 6, "m5": 37, "m4": 36, "q4": 20, "i4": 4}
MINIMUMS = (36, 37)
ROUNDED = tuple(kind for kind, bits in KINDS.items() if bits not in MINIMUMS)  # what floats become
TABLE = 20
# closer near zero, where weights are many: GGUF's IQ4_NL
TABLE_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# what files of them go by, which stays: integers of 4 bits were q4 when packages were made already
ADDRESSES = {"i4": "q4", "q4": "t4"}
STORED = {TABLE: 4, 36: 4, 37: 5}  # bits in memory of what is not called by them
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
    """`bits` is 0 for float32, 16 for bfloat16, 20 for 4 by a table, 36 and 37 for 4 and 5 with a
    minimum; of all others every `block` neighbours along the inputs share one 16-bit scale."""

    bits: int = 0
    block: int = 32

    @classmethod
    def named(cls, kind: str, block: int) -> Quantisation:
        if kind not in KINDS or block not in BLOCKS:
            raise ConvertError(
                f"--quant {kind} --block {block}: kinds are {', '.join(KINDS)}, blocks {', '.join(map(str, BLOCKS))}"
            )
        bits = KINDS[kind]
        return cls(bits, BFLOAT_BLOCK if bits == BFLOAT else block)

    @property
    def kind(self) -> str:
        return next(kind for kind, bits in KINDS.items() if bits == self.bits)

    def __str__(self) -> str:
        more = ", by table" if self.bits == TABLE else ", with a minimum" if self.has_minimum else ""
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
        if self.bits == TABLE:
            beyond = -TABLE_VALUES[0] - TABLE_VALUES[-1]
            return max(2 * beyond, *(b - a for a, b in pairwise(TABLE_VALUES))) / -self.lowest
        return 1 / (-self.lowest - 1)

    @property
    def lowest(self) -> int:
        """The least value, which is the farthest from 0; of what has a minimum, below the
        largest."""
        if self.has_minimum:
            return 1 - (1 << self.stored_bits)
        return TABLE_VALUES[0] if self.bits == TABLE else -(2 ** (self.bits - 1))

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
    def numbers(self) -> int:
        """Of 16 bits, that a block has: its scale, and its minimum."""
        return 2 if self.has_minimum else 1

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
        if self.bits not in KINDS.values() or self.block not in BLOCKS or self.k % self.block:
            return 0
        how, blocks = Quantisation(self.bits, self.block), self.k // self.block
        lines = -(-blocks * how.numbers // 2)
        return panels * (lines + blocks * self.block // CHUNK * how.stored_bits) * LINE

    @property
    def reading(self) -> tuple[int, bool]:
        """How it reads its input, which products of one layer must have in common: the block, and
        whether in bfloat16."""
        return self.block, self.bits == BFLOAT


def kind_of(param: Param) -> str:
    """How most of a graph's linear weights are stored: a key of KINDS."""
    linears = Counter(kind.bits for kind in map(Quantisation.of, param.layers) if kind and kind.bits)
    bits = linears.most_common(1)[0][0] if linears else FLOAT.bits
    if bits not in KINDS.values():
        raise PackageError(f"a linear is stored in {bits} bits, it must be one of {', '.join(KINDS)}; convert again")
    return Quantisation(bits).kind
