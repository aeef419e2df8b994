"""How linear weights are stored: bits and block, and the QLinear layer that stands for them in the graph.

In: "q4" from the command line. Out: a Quantisation; a QLinear layer's parameters by name. The packed form of a matrix belongs to
the kernels (extensions/kernels), which make it and read it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from mpsplit.errors import ConvertError, PackageError
from mpsplit.package.param import Layer, Param

KINDS = {"f32": 0, "q8": 8, "q6": 6, "q4": 4}
BLOCKS = (32, 64, 128)
LAYER = "QLinear"


@dataclass(frozen=True)
class Quantisation:
    """`bits` is 0 for float32; every `block` neighbours along the inputs share one 16-bit scale."""

    bits: int = 0
    block: int = 32

    @classmethod
    def named(cls, kind: str, block: int) -> Quantisation:
        if kind not in KINDS or block not in BLOCKS:
            raise ConvertError(
                f"--quant {kind} --block {block}: kinds are {', '.join(KINDS)}, blocks {', '.join(map(str, BLOCKS))}"
            )
        return cls(KINDS[kind], block)


FLOAT = Quantisation()


@dataclass(frozen=True)
class QLinear:
    """The parameters of a QLinear layer, in the order of their ids; offsets in units of weights.ALIGNMENT, bias -1 for none."""

    n: int
    k: int
    bits: int
    block: int
    offset: int
    bytes: int
    bias: int

    def params(self) -> dict[str, str]:
        return {str(i): str(getattr(self, field.name)) for i, field in enumerate(fields(self))}

    @classmethod
    def of(cls, layer: Layer) -> QLinear:
        return cls(*(layer.number(str(i)) for i in range(len(fields(cls)))))


def kind_of(param: Param) -> str:
    """How a graph's linear weights are stored: a key of KINDS."""
    bits = next((QLinear.of(layer).bits for layer in param.layers if layer.type == LAYER), FLOAT.bits)
    if bits not in KINDS.values():
        raise PackageError(f"a linear is stored in {bits} bits, it must be one of {', '.join(KINDS)}; convert again")
    return next(kind for kind, number in KINDS.items() if number == bits)
