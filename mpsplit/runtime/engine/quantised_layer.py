"""QLinear as an ncnn layer in Python, for the stock engine: the kernels of extensions/ over the
mapped files of packed weights.

In: a net, the rank's Packed. Out: the net knows QLinear. The weights are never copied: a rank's
slice is read from the page cache.
"""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType

import ncnn
import numpy as np

from mpsplit.native.cpp import kernels
from mpsplit.package.stored.float_weights import FLOAT_BYTES
from mpsplit.package.stored.quantisation import LAYER, QLinear
from mpsplit.package.stored.weight_files import Packed
from mpsplit.runtime.engine.collective_layers import give


def _kernels() -> ModuleType:
    module = kernels()
    assert module is not None  # or it was raised
    return module


class QLinearLayer(ncnn.Layer):
    """y [rows, n] = x [rows, k] W^T + bias; rows may have two axes"""

    def __init__(self, packed: Packed, threads: int):
        ncnn.Layer.__init__(self)
        self.one_blob_only = True
        self.packed, self.threads = packed, threads

    def load_param(self, params: ncnn.ParamDict) -> int:
        q = QLinear.of_numbers(*(params.get(i, -1) for i in range(len(fields(QLinear)))))
        matrix, bias = self.packed.at(q.offset, q.bytes), self.packed.at(q.bias, FLOAT_BYTES * q.n)
        if matrix is None or (q.bias >= 0 and bias is None):
            return -1  # ncnn then refuses the graph
        try:  # n, k, bits and block must make just so many bytes
            self.weights = _kernels().Weights(matrix, q.n, q.k, q.bits, q.block)
        except ValueError:
            return -1
        self.bias = None if bias is None else bias.view(np.float32)
        return 0

    def forward(self, bottom: ncnn.Mat, top: ncnn.Mat, option: ncnn.Option) -> int:
        x = bottom.numpy()
        y = _kernels().linear(x.reshape(-1, x.shape[-1]), self.weights, self.bias, threads=self.threads)
        give(top, y.reshape(*x.shape[:-1], y.shape[-1]) if x.ndim > 2 else y)
        return 0


def register(net: ncnn.Net, packed: Packed, threads: int) -> list[ncnn.Layer]:
    """Makes the net know QLinear; returns the list that keeps the layers alive as long as
    the net."""
    alive: list[ncnn.Layer] = []

    def create() -> ncnn.Layer:
        alive.append(QLinearLayer(packed, threads))
        return alive[-1]

    net.register_custom_layer(LAYER, create, lambda layer: None)
    return alive
