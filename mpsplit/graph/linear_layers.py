"""Linears: from the types of their weights to the layer that multiplies, and back.

In: an operator of OPERATORS and types: a value, maybe what is added, then matrices, each with its
bias after it or without. Out: a Layer; from a layer, its weights as values.

Matrices in panels are a QLinear's, up to three of one input; one in rows or in blocks is a Gemm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mpsplit.errors import GraphError
from mpsplit.graph.operator_kind import Operator, Said, Types, unnamed
from mpsplit.graph.value_types import BLOCKS, PANELS, ROW_BY_ROW, ValueType, plain
from mpsplit.package.checked.layer_shapes import PRODUCTS, STEP, linears_of
from mpsplit.package.param_text import Layer
from mpsplit.package.stored.float_weights import gemm_shape, has_bias
from mpsplit.package.stored.quantisation import GEMM, LAYER, TERM, QLinear, Quantisation

# what ncnn wants of a constant B, [n, k], and of no other A
CONSTANT_B = {"2": "0", "3": "1", "4": "0", "5": "1", "6": "1", "7": "0"}
BIAS, NO_BIAS = "4", "-1"


@dataclass(frozen=True)
class Product:
    matrix: ValueType
    biased: bool

    @property
    def size(self) -> tuple[int, int]:
        n, k = (size.value({}) for size in self.matrix.shape)
        return n, k


def products(weights: Types) -> list[Product]:
    found: list[Product] = []
    for weight in weights:
        if len(weight.shape) == 2:
            found.append(Product(weight, False))
        elif found and not found[-1].biased and weight == plain(found[-1].size[0]):
            found[-1] = replace(found[-1], biased=True)
        else:
            before = f"the bias of {found[-1].matrix}" if found else "a matrix"
            raise GraphError(f"{weight} is not {before}")
    if not 0 < len(found) <= PRODUCTS:
        raise GraphError(f"it has {len(found)} matrices, it takes 1 to {PRODUCTS}")
    return found


def linear_layer(operator: Operator, types: Types, said: Said) -> Layer:
    values = len(operator.values)
    found = products(types[values:])
    if any(product.matrix.layout == PANELS for product in found) or operator.fixed or len(found) > 1:
        return _in_panels(operator, found, values)
    (product,) = found
    (n, k), matrix = product.size, product.matrix
    kind = matrix.quantisation if matrix.layout == BLOCKS else Quantisation()
    if matrix.layout == ROW_BY_ROW and matrix.element != "f32":
        raise GraphError(f"{matrix} is no matrix of floats; convert it to f32, or lay it into {PANELS}")
    term = {TERM: str(kind.term)} if kind.bits else {}
    return unnamed(GEMM, values, 1, CONSTANT_B | {"8": str(n), "9": str(k), "10": BIAS if product.biased else NO_BIAS}
                   | term)  # fmt: skip


def _in_panels(operator: Operator, found: list[Product], values: int) -> Layer:
    params = dict(operator.fixed)
    for i, product in enumerate(found):
        if product.matrix.layout != PANELS:
            raise GraphError(f"{product.matrix} lies in {product.matrix.layout}, it must lie in {PANELS}")
        kind = product.matrix.quantisation
        linear = QLinear(*product.size, kind.bits, kind.block, 0, 0, 0 if product.biased else -1)
        linear = replace(linear, bytes=linear.packed_bytes)
        params |= {str(STEP * i + int(key)): value for key, value in linear.params().items()}
    makes = 1 if operator.fixed.get("7") == "1" else len(found)
    return unnamed(LAYER, values, makes, params)


def weights_of_linear(layer: Layer, names: Mapping[int, str]) -> list[tuple[str, ValueType]]:
    """What a linear's weights are called, and their types. `names`: those of matrices in panels, by
    their offset; those of products that only a fused layer knows are the layer's with a number."""
    if layer.type == GEMM:
        (n, k), kind = gemm_shape(layer), Quantisation.of_gemm(layer)
        matrix = ValueType.matrix(n, k, kind, BLOCKS) if kind.bits else plain(n, k)
        return _with_bias(layer.name, matrix, has_bias(layer))
    found = []
    for i, linear in enumerate(linears_of(layer)):
        matrix = ValueType.matrix(linear.n, linear.k, Quantisation(linear.bits, linear.block), PANELS)
        name = names.get(linear.offset, f"{layer.name}.product_{i}" if i else layer.name)
        found += _with_bias(name, matrix, linear.bias >= 0)
    return found


def _with_bias(name: str, matrix: ValueType, biased: bool) -> list[tuple[str, ValueType]]:
    bias = [(f"{name}.bias", plain(matrix.shape[0]))] if biased else []
    return [(f"{name}.weight", matrix), *bias]
