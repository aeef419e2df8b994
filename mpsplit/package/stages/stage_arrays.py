"""The arrays of a stage's .bin, layer by layer, for every layer that pnnx makes.

In: a Param, its .bin. Out: arrays by layer, and the .bin again.

Invariant: the file is accounted for to its last byte; a layer that no line here knows has none, and
where it has some after all, that is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import FLAG, Owned, arrays_of

Arrays = dict[str, list[np.ndarray]]


def _matrix(size: str, bias: str, outputs: str) -> Callable[[Layer], list[Owned]]:
    """A flagged matrix of `size` numbers, and where `bias` says so one number an output."""

    def owned(layer: Layer) -> list[Owned]:
        weight = Owned((layer.number(size),), flagged=True)
        return [weight] + [Owned((layer.number(outputs),))] * (layer.number(bias, 0) == 1)

    return owned


def _pair(affine: str, size: str) -> Callable[[Layer], list[Owned]]:
    return lambda layer: [Owned((layer.number(size),))] * (2 * (layer.number(affine, 1) == 1))


def _attention(layer: Layer) -> list[Owned]:
    hidden, size = layer.number("0"), layer.number("2")
    inputs = size // hidden
    widths = layer.number("3", hidden), layer.number("4", hidden)
    parts = [(hidden * inputs, hidden), *((hidden * width, hidden) for width in widths), (inputs * hidden, inputs)]
    return [array for matrix, bias in parts for array in (Owned((matrix,), flagged=True), Owned((bias,)))]


KINDS: dict[str, Callable[[Layer], list[Owned]]] = {
    "Convolution": _matrix("6", "5", "0"),
    "Convolution1D": _matrix("6", "5", "0"),
    "ConvolutionDepthWise": _matrix("6", "5", "0"),
    "ConvolutionDepthWise1D": _matrix("6", "5", "0"),
    "Deconvolution": _matrix("6", "5", "0"),
    "InnerProduct": _matrix("2", "1", "0"),
    "Embed": _matrix("3", "2", "0"),
    "LayerNorm": _pair("2", "0"),
    "GroupNorm": _pair("3", "1"),
    "BatchNorm": lambda layer: [Owned((layer.number("0"),))] * 4,
    "PReLU": lambda layer: [Owned((layer.number("0"),))],
    "MultiHeadAttention": _attention,
}


def owned(layer: Layer) -> list[Owned]:
    return KINDS[layer.type](layer) if layer.type in KINDS else arrays_of(layer)


def read(param: Param, path: Path) -> Arrays:
    data, at = np.fromfile(path, np.uint8), 0
    arrays: Arrays = {}
    for layer in param.layers:
        for array in owned(layer):
            at += array.total
            start, stop = at - array.bytes, at
            if stop > len(data):
                break
            numbers: np.ndarray = data[start:stop].view(array.dtype).reshape(array.shape)
            arrays.setdefault(layer.name, []).append(numbers)
    if at != len(data):
        kinds = ", ".join(sorted({layer.type for layer in param.layers}))
        raise PackageError(
            f"{path.name} has {len(data)} bytes, its layers account for {at} ({kinds}); convert again, without --quant"
            " where a layer is not known"
        )
    return arrays


def write(param: Param, arrays: Arrays, path: Path) -> None:
    with open(path, "wb") as file:
        for layer in param.layers:
            for own, array in zip(owned(layer), arrays.get(layer.name, []), strict=True):
                file.write(FLAG * own.flagged)
                file.write(np.ascontiguousarray(array, own.dtype).data)


# layers that own nothing, of those that pnnx makes of networks such as these
WITHOUT = frozenset(
    "Input Split Reshape Permute BinaryOp UnaryOp GELU Concat Crop Squeeze ExpandDims Slice SDPA TanH Sigmoid ReLU"
    " Swish HardSwish HardSigmoid Softmax Pooling Reduction RotaryEmbed Flatten Padding Interp Eltwise ELU SELU Clip"
    " Mish Dropout Noop Packing QLinear MatMul".split()
)


def check_stage_graph(graph: Path, floats: Path, inputs: int, outputs: int) -> None:
    """A stage's files as ncnn will believe them: text that is whole, as many inputs and outputs as
    the stage has, and numbers that are there."""
    param = Param.load(graph)
    blobs = {blob for layer in param.layers for blob in layer.tops}
    given = {layer.tops[0] for layer in param.layers if layer.type == "Input" and layer.tops}
    missing = [f"in{i}" for i in range(inputs) if f"in{i}" not in given]
    missing += [f"out{i}" for i in range(outputs) if f"out{i}" not in blobs]
    if missing or len(given) > inputs:
        raise PackageError(f"{graph} has {len(given)} inputs and lacks {missing[:1] or 'none'}; convert again")
    kinds = {layer.type for layer in param.layers}
    if kinds <= WITHOUT | set(KINDS) | {"Gemm", "RMSNorm", "MemoryData"}:
        needed, size = sum(array.total for layer in param.layers for array in owned(layer)), floats.stat().st_size
        if needed != size:
            raise PackageError(f"{floats} has {size} bytes, its graph accounts for {needed}; convert again")
