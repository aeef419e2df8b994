"""Whether a rank's graph can be given to an engine.

In: a rank's folder. Out: nothing, or a PackageError.

ncnn believes what a .param says: counts, shapes, blobs. Invariant: what passes has only layers that
mpsplit writes, every blob made once before its one reader, and weights that lie in their files.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.collectives import COLLECTIVES
from mpsplit.package.manifest import FUSED, GRAPH
from mpsplit.package.param_text import REMEDY, Layer, Param, integer
from mpsplit.package.stored.float_weights import FLOAT_BYTES, arrays_of, gemm_shape, weight_bytes
from mpsplit.package.stored.quantisation import BLOCKS, GEMM, KINDS, LAYER, QLinear, Quantisation
from mpsplit.package.stored.weight_files import WeightFiles, inside, size_of

MANY = range(1, 1 << 16)
# type -> how many blobs it reads and makes
BLOBS = {
    "Attention": (range(3, 4), range(1, 2)),
    "BinaryOp": (range(1, 3), range(1, 2)),
    "Concat": (MANY, range(1, 2)),
    "Crop": (range(1, 3), range(1, 2)),
    GEMM: (range(1, 3), range(1, 2)),
    "Input": (range(1), range(1, 2)),
    "MemoryData": (range(1), range(1, 2)),
    "Noop": (range(1 << 16), range(1 << 16)),
    "Permute": (range(1, 2), range(1, 2)),
    LAYER: (range(1, 3), range(1, 4)),
    "RMSNorm": (range(1, 2), range(1, 2)),
    "Reshape": (range(1, 2), range(1, 2)),
    "RotaryEmbed": (range(3, 4), range(1, 2)),
    "SDPA": (range(3, 7), range(1, 4)),
    "Slice": (range(1, 2), MANY),
    "Split": (range(1, 2), MANY),
    "Swish": (range(1, 2), range(1, 2)),
    "TopK": (range(1, 2), range(1, 2)),
    "UnaryOp": (range(1, 2), range(1, 2)),
} | {collective.layer: (range(1, 2), range(1, 2)) for collective in COLLECTIVES}
FIRST_ARRAY = -23300  # parameter ids from here down hold an array, whose length comes first
NUMERAL = re.compile(r"[-+]?\d[\d.e+-]{0,30}", re.ASCII)
SCALAR = re.compile(
    NUMERAL.pattern + r'|"[\w,.*/+() -]{0,250}"', re.ASCII
)  # quoted: Reshape's sizes, of those of its blob
MOST_BYTES = (1 << 31) - 1  # of integers: ncnn counts them in an int
IDS = 100  # of one layer: three linears in one take 30
MOST = len(BLOBS[LAYER][1])  # linears that fuse.py makes one layer of
STEP = 10  # between the parameter ids of a fused layer's linears
# what ncnn wants of a Gemm in blocks: B is a constant, [n, k], and A is not
OF_BLOCKS = {"2": 0, "3": 1, "4": 0, "5": 1}


def check_graphs(folder: Path, files: WeightFiles) -> None:
    """Both graphs of a rank."""
    floats, packed = size_of(folder / files.floats), files.spans(folder)
    for name in (GRAPH, FUSED):
        param = Param.load(folder / name)
        try:
            _check(param, floats, packed)
        except PackageError as wrong:
            raise PackageError(f"{folder / name} is damaged ({wrong}); {REMEDY}") from None


def _check(param: Param, floats: int, packed: list[range]) -> None:
    unread: set[str] = set()
    made: set[str] = set()
    for layer in param.layers:
        _check_layer(layer)
        for blob in layer.bottoms:
            if blob not in unread:
                raise PackageError(f"{layer.name!a} reads {blob!a}, which nobody makes before it or somebody has read")
            unread.remove(blob)
        if len(set(layer.tops) - made) < len(layer.tops):
            raise PackageError(f"{layer.name!a} makes a blob that was made before")
        made.update(layer.tops)
        unread.update(layer.tops)
        if layer.type == LAYER:
            for linear in linears_of(layer):
                _check_linear(layer, linear, packed)
        if layer.type == GEMM and Quantisation.of_gemm(layer).bits:
            _check_blocks(layer)
    if (needed := weight_bytes(param)) != floats:
        raise PackageError(f"its floats take {needed} bytes, their file has {floats}")


def _check_layer(layer: Layer) -> None:
    if layer.type not in BLOBS:
        raise PackageError(f"{layer.name!a} is a {layer.type!a}, which mpsplit does not write")
    bottoms, tops = BLOBS[layer.type]
    if len(layer.bottoms) not in bottoms or len(layer.tops) not in tops:
        raise PackageError(
            f"{layer.name!a} ({layer.type}) reads {len(layer.bottoms)} blobs and makes {len(layer.tops)}"
        )
    for key, value in layer.params.items():
        place = integer(key)
        inside = 0 <= (FIRST_ARRAY - place if place <= FIRST_ARRAY else place) < IDS
        if not inside or not (_is_array if place <= FIRST_ARRAY else SCALAR.fullmatch)(value):
            raise PackageError(f"{layer.name!a} has the parameter {f'{key}={value}'[:40]!a}")


def _is_array(value: str) -> bool:
    """Its length, then as many numbers."""
    length, *items = value.split(",")
    return integer(length) == len(items) and all(map(NUMERAL.fullmatch, items))


def linears_of(layer: Layer) -> list[QLinear]:
    """Those of a plain QLinear, or of one that fuse.py made of several: each STEP ids further."""
    names, firsts = [field.name for field in fields(QLinear)], range(0, STEP * MOST, STEP)
    count = next((i for i, first in enumerate(firsts) if layer.number(str(first), 0) == 0), MOST)
    linears = [QLinear(*(layer.number(str(first + i)) for i in range(len(names)))) for first in firsts[:count]]
    if not linears:
        raise PackageError(f"{layer.name!a} is a linear without rows")
    return linears


def _check_linear(layer: Layer, linear: QLinear, packed: list[range]) -> None:
    good = (
        linear.n > 0
        and linear.k > 0
        and linear.bits in KINDS.values()
        and linear.block in BLOCKS
        and linear.bytes > 0
        and inside(packed, linear.offset, linear.bytes) is not None
        and linear.n * linear.k * linear.bits // 8 <= linear.bytes
        and linear.bias >= -1
        and (linear.bias < 0 or inside(packed, linear.bias, FLOAT_BYTES * linear.n) is not None)
    )
    if not good:
        raise PackageError(f"{layer.name!a} is {linear}, which lies in none of {len(packed)} files of packed weights")


def _check_blocks(gemm: Layer) -> None:
    (n, k), stored = gemm_shape(gemm), Quantisation.of_gemm(gemm)
    turned = any(gemm.number(key, 0) != value for key, value in OF_BLOCKS.items())
    if turned or n <= 0 or k <= 0 or not stored.fits(k) or arrays_of(gemm)[0].bytes > MOST_BYTES:
        raise PackageError(f"{gemm.name!a} ({gemm}) is no matrix in blocks of {stored.block}")
