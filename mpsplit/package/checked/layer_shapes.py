"""What each layer of a rank's graph may say, and which shapes it takes and makes.

In: a layer, the shapes of the blobs that it reads, what the manifest says of the rank. Out: the
shapes of the blobs that it makes, or a PackageError with the numbers.

ncnn's layers believe their inputs: a norm of 128 numbers over rows of 64 reads what lies behind
them. A shape is as ncnn has it, (columns, rows) or (columns, rows, channels). A size is a number,
or the name of one that only a step knows. Invariant: sizes of the same name are equal in every
step, so what passes here fits whenever it runs. extensions/engine/layer_shapes.cpp does the same
for the graph of the native engine, where no Python looks before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mpsplit.errors import PackageError
from mpsplit.package.collectives import BY_LAYER, COLLECTIVES, STAGE, WORLD
from mpsplit.package.manifest import Manifest
from mpsplit.package.param_text import Layer, integer
from mpsplit.package.stored.quantisation import GEMM, LAYER, QLinear, Quantisation
from mpsplit.plan.shards import Range

Shape = tuple[int | str, ...]

ROWS, ANSWERS = "rows", "answers"  # tokens of a step; those of them whose logits are wanted
PAST, ALL = "past", "past and rows"  # tokens before a step, and with it
TOP: Shape = ("the largest", 2)
MOST = (1 << 31) - 1  # ncnn counts in an int
WIDEST = 1 << 24  # columns of a blob, as sizes in manifest_fields.py
STEP = 10  # between the parameter ids of a fused layer's linears
PRODUCTS = 3  # linears that fuse.py makes one layer of
NUMBER = re.compile(r"-?\d{1,30}([.]\d{0,30})?(e[+-]?\d{1,2})?", re.ASCII)
HEADS = re.compile(r'"(\d{1,8}),(\d{1,8}),0h"', re.ASCII)  # Reshape: rows into heads
JOINED = re.compile(r'"(\d{1,8}),0c"', re.ASCII)  # and back


@dataclass(frozen=True)
class RankSizes:
    """What a graph is held against. `groups`: how many ranks each group id has; `fused`: whether it
    is the native engine's, which keeps keys, values and angles itself."""

    hidden: int
    head_dim: int
    heads: int
    kv_heads: int
    attentions: int
    head: Range
    angles: int
    groups: dict[int, int]
    fused: bool

    @classmethod
    def of(cls, manifest: Manifest, rank: int, fused: bool) -> RankSizes:
        plan, facts = manifest.plan, manifest.facts
        shard = plan.shards[rank]
        return cls(
            facts.hidden,
            facts.head_dim,
            len(shard.heads),
            len(shard.kv_heads),
            shard.attentions,
            shard.head,
            len(manifest.rope.inverse_frequencies),
            {WORLD: plan.ranks, STAGE: len(plan.group(rank))},
            fused,
        )

    def inputs(self) -> dict[str, Shape]:
        """The blobs that an engine gives, by name."""
        given: dict[str, Shape] = {"hidden": (self.hidden, ROWS)}
        if self.fused:
            return given
        given |= {"mask": (ALL, ROWS), **dict.fromkeys(("cos", "sin"), (self.angles, ROWS))}
        return given | self._caches("past_", PAST)

    def outputs(self) -> dict[str, Shape]:
        """And those that it takes."""
        wanted: dict[str, Shape] = {"hidden_out": (self.hidden, ROWS)}
        if len(self.head):
            wanted["logits"] = (len(self.head), ANSWERS)
        if self.fused:
            return wanted | ({"top": TOP} if len(self.head) else {})
        return wanted | self._caches("", ALL)

    def _caches(self, prefix: str, positions: str) -> dict[str, Shape]:
        shape: Shape = (self.head_dim, positions, self.kv_heads)
        return {f"{prefix}{kind}{i}": shape for i in range(self.attentions) for kind in "kv"}


def _want(good: bool, what: str) -> None:
    if not good:
        raise PackageError(what)


def _same(shape: Shape, wanted: Shape, what: str) -> None:
    _want(shape == wanted, f"{what} is {text(shape)}, it must be {text(wanted)}")


def text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _of_rows(shape: Shape) -> tuple[int, str]:
    """The columns of a blob [columns, rows]."""
    columns, *rows = shape
    if not isinstance(columns, int) or rows not in ([ROWS], [ANSWERS]):
        raise PackageError(f"it reads {text(shape)}, not columns x rows")
    return columns, str(rows[0])


def _as_heads(layer: Layer, name: str, shape: Shape, heads: int, dim: int) -> None:
    """A blob [heads * dim, rows], or [dim, heads, rows] after a norm of each head."""
    fits = shape in ((heads * dim, ROWS), (dim, heads, ROWS))
    _want(fits, f"{name} is {text(shape)}, of {heads} heads of {dim} it is {heads * dim} x {ROWS}")


# -- each layer: its parameters, then what it makes --------------------------------------------


def _unchanged(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    return shapes * len(layer.tops)


def _input(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    given = sizes.inputs()
    (name,) = layer.tops
    _want(name in given, f"no engine gives {name!a}")
    return [given[name]]


def _memory_data(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    return [(_count(layer, "0", WIDEST),)]


def _rms_norm(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    wide = layer.number("0", 0)
    _want(shapes[0][0] == wide, f"{wide} numbers of a norm do not fit {text(shapes[0])}")
    return shapes


def _one_or_two(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    with_number = layer.number("1", 0) == 1
    _want(len(shapes) == 2 - with_number, f"1={int(with_number)} does not fit {len(shapes)} inputs")
    if with_number:
        return shapes
    (columns, *_), second = shapes
    # a bias is a column of numbers
    _want(second == shapes[0] or second == (columns, 1), f"{text(shapes[0])} and {text(second)} do not fit")
    return shapes[:1]


def _reshape(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    (shape,), params = shapes, layer.params
    if params.keys() == {"0", "1"}:
        made: Shape = (layer.number("0"), layer.number("1"))
        _want(len(shape) == 1 and made == (*shape, 1), f"{text(shape)} is not made {text(made)}")
        return [made]
    said = params.get("6", "")
    if params.keys() == {"6"} and (heads := HEADS.fullmatch(said)):
        dim, count = map(int, heads.groups())
        _want(shape in ((dim * count, ROWS), (dim * count, ANSWERS)), f"6={said} does not fit {text(shape)}")
        return [(dim, count, shape[1])]
    if params.keys() == {"6"} and (joined := JOINED.fullmatch(said)):
        columns = int(joined[1])
        fits = len(shape) == 3 and all(isinstance(size, int) for size in shape[:2])
        _want(fits and math.prod(map(int, shape[:2])) == columns, f"6={said} does not fit {text(shape)}")
        return [(columns, shape[2])]
    raise PackageError(f"it has {' '.join(f'{k}={v}' for k, v in params.items())[:80]}, which mpsplit does not write")


def _permute(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    (shape,) = shapes
    _want(len(shape) == 3, f"it reads {text(shape)}, not three sizes")
    return [(shape[0], shape[2], shape[1])]


def _rotary(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    x, *angles = shapes
    _want(len(x) == 3 and x[1] == ROWS, f"it reads {text(x)}, not {sizes.head_dim} x {ROWS} x heads")
    for name, table in zip(("cos", "sin"), angles, strict=True):
        _same(table, (sizes.angles, ROWS), name)
    _want(x[0] == 2 * sizes.angles, f"heads of {x[0]} turn by {sizes.angles} angles")
    return [x]


def _sdpa(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    dim, kv = sizes.head_dim, sizes.kv_heads
    wanted: dict[str, Shape] = {
        "q": (dim, ROWS, sizes.heads),
        "k": (dim, ROWS, kv),
        "v": (dim, ROWS, kv),
        "mask": (ALL, ROWS),
        "the past of k": (dim, PAST, kv),
        "the past of v": (dim, PAST, kv),
    }
    for (name, shape), found in zip(wanted.items(), shapes, strict=True):
        _same(found, shape, name)
    return [(dim, ROWS, sizes.heads), (dim, ALL, kv), (dim, ALL, kv)]


def _attention(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    wanted = {"0": (sizes.heads, "heads"), "1": (sizes.kv_heads, "heads of k and v"), "2": (sizes.head_dim, "numbers")}
    for key, (count, what) in wanted.items():
        found = layer.number(key)
        _want(found == count, f"{key}={found} {what}, the plan says {count}")
    _want(2 * sizes.angles == sizes.head_dim, f"heads of {sizes.head_dim} turn by {sizes.angles} angles")
    for name, shape, heads in zip("qkv", shapes, (sizes.heads, sizes.kv_heads, sizes.kv_heads), strict=True):
        _as_heads(layer, name, shape, heads, sizes.head_dim)
    return [(sizes.heads * sizes.head_dim, ROWS)]


def _gemm(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    n, k = _count(layer, "8", WIDEST), _count(layer, "9", WIDEST)
    columns, rows = _of_rows(shapes[0])
    _want(columns == k, f"9={k} inputs do not fit {text(shapes[0])}")
    if not Quantisation.of_gemm(layer).bits:
        # ncnn multiplies these in an int
        _want(n * k <= MOST, f"8={n} x 9={k} are {n * k:,} numbers, ncnn counts to {MOST:,}; convert with fewer bits")
    return [(n, rows)]


def linears_of(layer: Layer) -> list[QLinear]:
    """Those of a plain QLinear, or of one that fuse.py made of several: each STEP ids further."""
    firsts = range(0, STEP * PRODUCTS, STEP)
    count = next((i for i, first in enumerate(firsts) if layer.number(str(first), 0) == 0), PRODUCTS)
    _want(count > 0, "it is a linear without rows")
    return [QLinear.of(layer, first) for first in firsts[:count]]


def _qlinear(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    linears, gated, residual = linears_of(layer), layer.number("7", 0), layer.number("8", 0)
    known = {str(STEP * i + j) for i in range(len(linears)) for j in range(7)} | {"7", "8"}
    _want(layer.params.keys() <= known, f"it has parameters of more than {len(linears)} linears")
    (columns, rows), first = _of_rows(shapes[0]), linears[0]
    for linear in linears:
        _want(0 < linear.n <= WIDEST, f"{linear.n} outputs are not from 1 to {WIDEST}")
        _want(linear.k == columns, f"{linear.k} inputs do not fit {text(shapes[0])}")
        _want(linear.reading == first.reading, f"linears of {linear.bits} and {first.bits} bits do not share an input")
    _want(len(layer.tops) == (1 if gated else len(linears)), f"{len(linears)} linears do not make {len(layer.tops)}")
    _want(len(shapes) == 1 + residual, f"8={residual} does not fit {len(shapes)} inputs")
    if gated:
        pair = len(linears) == 2 and linears[1].n == first.n and not residual
        _want(pair and max(linear.bias for linear in linears) < 0, "7=1 takes two linears of one size without biases")
    if residual:
        _want(len(linears) == 1, f"8=1 does not fit {len(linears)} linears")
        _same(shapes[1], (first.n, rows), "what is added")
    made: list[Shape] = [(linear.n, rows) for linear in linears]
    return made[: len(layer.tops)]


def _collective(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    arguments = BY_LAYER[layer.type].arguments
    found = {name: layer.number(str(i)) for i, name in enumerate(arguments, 1)}
    columns, rows = _of_rows(shapes[0])
    _want(found["group"] in sizes.groups, f"there is no group {found['group']}")
    ranks = sizes.groups[found["group"]]
    for name in ("root", "peer"):
        place = found.get(name, 0)
        _want(0 <= place < ranks, f"{name} {place} is none of the {ranks} ranks of its group")
    if "size" not in found:
        return shapes
    _want(found["size"] == ranks, f"a group of {found['size']} has {ranks} ranks")
    _want(columns * ranks <= WIDEST, f"{columns} columns of {ranks} ranks are more than {WIDEST}")
    return [(columns * ranks, rows)]


def _top_k(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    _count(layer, "0", WIDEST)
    first = layer.number("1", 0)
    _want(first == sizes.head.start, f"1={first} is not the first row of the head, {sizes.head.start}")
    _same(shapes[0], (len(sizes.head), ANSWERS), "what it looks through")
    return [TOP]


def _count(layer: Layer, key: str, most: int) -> int:
    found = layer.number(key)
    _want(0 < found <= most, f"{key}={found} is not from 1 to {most}")
    return found


@dataclass(frozen=True)
class Kind:
    """How many blobs a layer reads and makes; its parameters: those that have one of a few values,
    and of whole numbers and of fractions the ids; and what shapes it makes of others."""

    reads: range
    makes: range
    shapes: Callable[[Layer, list[Shape], RankSizes], list[Shape]]
    fixed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    fractions: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def check(self, layer: Layer) -> None:
        counts = len(layer.bottoms) in self.reads and len(layer.tops) in self.makes
        _want(counts, f"it reads {len(layer.bottoms)} blobs and makes {len(layer.tops)}")
        for key, value in layer.params.items():
            said = f"{key}={value}"[:60]
            if key in self.fixed:
                _want(value in self.fixed[key], f"{said} must be {' or '.join(self.fixed[key])}")
            elif key in self.numbers:
                _want(abs(integer(value)) <= MOST, f"{said} is more than ncnn counts to")
            elif key in self.fractions:
                _want(bool(NUMBER.fullmatch(value)), f"{said} is no number")
            elif key not in self.texts:
                raise PackageError(f"it has the parameter {said!a}, which mpsplit does not write")


def _reads(count: int) -> range:
    return range(count, count + 1)


ONE, SEVERAL = _reads(1), range(1, 1 << 16)
LINEARS = tuple(str(STEP * i + j) for i in range(PRODUCTS) for j in range(7))
FLAG = ("0", "1")
KINDS = {
    "Attention": Kind(_reads(3), ONE, _attention, numbers=("0", "1", "2"), fractions=("3",)),
    # add, subtract, multiply, divide
    "BinaryOp": Kind(range(1, 3), ONE, _one_or_two, {"0": ("0", "1", "2", "3"), "1": FLAG}, fractions=("2",)),
    # what ncnn wants of a constant B, [n, k], and of no other A
    GEMM: Kind(
        ONE, ONE, _gemm,
        {"2": ("0",), "3": ("1",), "4": ("0",), "5": ("1",), "6": ("1",), "7": ("0",), "10": ("-1", "4")},
        ("8", "9", "18"),
    ),
    "Input": Kind(_reads(0), ONE, _input),
    "MemoryData": Kind(_reads(0), ONE, _memory_data, numbers=("0",)),
    "Permute": Kind(ONE, ONE, _permute, {"0": ("2",)}),
    LAYER: Kind(range(1, 3), range(1, PRODUCTS + 1), _qlinear, {"7": FLAG, "8": FLAG}, LINEARS),
    "RMSNorm": Kind(ONE, ONE, _rms_norm, {"2": ("1",)}, ("0",), ("1",)),
    "Reshape": Kind(ONE, ONE, _reshape, numbers=("0", "1"), texts=("6",)),
    "RotaryEmbed": Kind(_reads(3), ONE, _rotary, {"0": ("0",)}),
    "SDPA": Kind(_reads(6), _reads(3), _sdpa, {"5": ("1",), "7": ("1",)}, fractions=("6",)),
    "Split": Kind(ONE, SEVERAL, _unchanged),
    "Swish": Kind(ONE, ONE, _unchanged),
    "TopK": Kind(ONE, ONE, _top_k, numbers=("0", "1")),
} | {
    collective.layer: Kind(
        ONE, ONE, _collective, numbers=tuple(str(i) for i in range(1, len(collective.arguments) + 1))
    )
    for collective in COLLECTIVES
}  # fmt: skip


def shapes_of(layer: Layer, shapes: list[Shape], sizes: RankSizes) -> list[Shape]:
    """What the layer makes; a PackageError where it is none that mpsplit writes, or its inputs do
    not fit."""
    _want(layer.type in KINDS, "mpsplit does not write such a layer")
    kind = KINDS[layer.type]
    kind.check(layer)
    return kind.shapes(layer, shapes, sizes)
