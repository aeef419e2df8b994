"""Whether a rank's graph can be given to an engine.

In: a rank's folder, what its manifest says. Out: nothing, or a PackageError.

ncnn believes what a .param says: counts, shapes, blobs. Invariant: what passes has only layers that
mpsplit writes, every blob made once before its one reader and of the shape that it wants, and
weights that lie in their files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.checked.layer_shapes import ANSWERS, ROWS, RankSizes, Shape, linears_of, shapes_of, text
from mpsplit.package.manifest import FUSED, GRAPH, RANK_TEXT, Manifest
from mpsplit.package.param_text import REMEDY, Layer, Param
from mpsplit.package.stored.float_weights import FLOAT_BYTES, arrays_of, gemm_shape, weight_bytes
from mpsplit.package.stored.quantisation import GEMM, KINDS, LAYER, MOST_NUMBER, QLinear, Quantisation
from mpsplit.package.stored.rank_text import rank_lines
from mpsplit.package.stored.weight_files import WeightFiles, inside, size_of
from mpsplit.package.whole_files import read_text

HIDDEN_OUT = "hidden_out"


def check_graphs(folder: Path, files: WeightFiles, manifest: Manifest, rank: int) -> None:
    """Both graphs of a rank, and what C++ is told of its manifest."""
    _check_rank_text(folder / RANK_TEXT, manifest, rank)
    floats, packed = size_of(folder / files.floats), files.spans(folder)
    for name in (GRAPH, FUSED):
        sizes = RankSizes.of(manifest, rank, name == FUSED)
        param = Param.load(folder / name)
        try:
            check_shapes(param, sizes, lambda layer: _check_packed(layer, packed))
            if (needed := weight_bytes(param)) != floats:
                raise PackageError(f"its floats take {needed} bytes, their file has {floats}")
        except PackageError as wrong:
            raise PackageError(f"{folder / name} is damaged ({wrong}); {REMEDY}") from None


def _check_rank_text(path: Path, manifest: Manifest, rank: int) -> None:
    """It says of the manifest what the manifest does."""
    found = read_text(path, REMEDY).splitlines()
    for name, line in rank_lines(manifest, rank).items():
        if (said := [other for other in found if other.split()[:1] == [name]]) != [line]:
            raise PackageError(
                f"{path} is damaged (it says {'; '.join(said)[:80]!a} of {name}, the manifest {line[:80]!a}); {REMEDY}"
            )


def check_shapes(param: Param, sizes: RankSizes, also: Callable[[Layer], None] = lambda layer: None) -> None:
    """Every layer gets what it wants, and the engine what it takes."""
    unread: dict[str, Shape] = {}
    made: dict[str, Shape] = {}
    for layer in param.layers:
        for blob in layer.bottoms:
            if blob not in unread:
                raise PackageError(f"{layer.name!a} reads {blob!a}, which nobody makes before it or somebody has read")
        if len(set(layer.tops) - made.keys()) < len(layer.tops) or len(set(layer.bottoms)) < len(layer.bottoms):
            raise PackageError(f"{layer.name!a} makes or reads a blob twice")
        try:
            shapes = shapes_of(layer, [_read(blob, unread.pop(blob)) for blob in layer.bottoms], sizes)
            also(layer)
        except PackageError as wrong:
            raise PackageError(f"{layer.name!a}, a {layer.type[:40]!a}: {wrong}") from None
        fresh = dict(zip(layer.tops, shapes, strict=True))
        made |= fresh
        unread |= fresh
    for name, wanted in sizes.outputs().items():
        if made.get(name) != wanted:
            found = text(made[name]) if name in made else "missing"
            raise PackageError(f"{name} is {found}, it must be {text(wanted)}")
    if sizes.fused and (attentions := len(param.of_type("Attention"))) != sizes.attentions:
        raise PackageError(f"it has {attentions} attentions, the plan {sizes.attentions}")


def _read(blob: str, shape: Shape) -> Shape:
    """As its reader sees it: after the last hidden state go the rows that are asked for."""
    return tuple(ANSWERS if size == ROWS else size for size in shape) if blob == HIDDEN_OUT else shape


def _check_packed(layer: Layer, packed: list[range]) -> None:
    for linear in linears_of(layer) if layer.type == LAYER else ():
        _check_linear(linear, packed)
    if layer.type == GEMM and Quantisation.of_gemm(layer).bits:
        _check_blocks(layer)


def _check_linear(linear: QLinear, packed: list[range]) -> None:
    good = (
        linear.n > 0
        and linear.k > 0
        and linear.bits in KINDS.values()
        and linear.bytes > 0
        and linear.bytes == linear.packed_bytes
        and inside(packed, linear.offset, linear.bytes) is not None
        and linear.bias >= -1
        and (linear.bias < 0 or inside(packed, linear.bias, FLOAT_BYTES * linear.n) is not None)
    )
    if not good:
        raise PackageError(f"{linear}, which lies in none of {len(packed)} files of packed weights")


def _check_blocks(gemm: Layer) -> None:
    (n, k), stored = gemm_shape(gemm), Quantisation.of_gemm(gemm)
    if not stored.fits(k) or arrays_of(gemm)[0].bytes > MOST_NUMBER:
        raise PackageError(f"{n} x {k} is no matrix in blocks of {stored.block}")
