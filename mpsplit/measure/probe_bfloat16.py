"""Linear layers in bfloat16, through the ncnn wheel: the native engine has none yet.

In: sizes. Out: the seconds of a step through a chain of them.

The file holds float16, which ncnn turns into bfloat16 as it loads. Invariant: what is stored is at
least the size that was asked for.
"""

from __future__ import annotations

import time

import ncnn
import numpy as np

from mpsplit.errors import RunError
from mpsplit.measure.probe_package import GEMM, noise, scratch_folder
from mpsplit.package.param_text import Layer, Param

FLOAT16 = np.uint32(0x01306B47).tobytes()  # ncnn's mark before an array of them


class Bfloat16:
    """x -> [hidden, mlp] -> [mlp, hidden], again and again."""

    def __init__(self, hidden: int, mlp: int, size: int, threads: int):
        pairs = max(1, round(size / (4 * hidden * mlp)))
        self.hidden, self.elements = hidden, 2 * pairs * hidden * mlp
        self.bytes, self.last = 2 * self.elements, f"x{2 * pairs}"
        layers = [Layer("Input", "x0", (), ("x0",))]
        for i in range(2 * pairs):
            n, k = (hidden, mlp) if i % 2 else (mlp, hidden)
            layers.append(Layer("Gemm", f"gemm_{i}", (f"x{i}",), (f"x{i + 1}",), GEMM | {"8": str(n), "9": str(k)}))
        self.net = ncnn.Net()
        _bfloat16(self.net.opt, threads)
        matrix = noise(hidden * mlp).astype(np.float16).tobytes()
        with scratch_folder("chain.bin") as folder:
            param, weights = folder / "chain.param", folder / "chain.bin"
            param.write_text(str(Param(tuple(layers))), encoding="utf-8")
            with open(weights, "wb") as file:
                for _ in range(2 * pairs):
                    file.write(FLOAT16 + matrix)
            if self.net.load_param(str(param)) or self.net.load_model(str(weights)):
                raise RunError(f"ncnn cannot load {self.bytes} bytes of bfloat16; is there memory left?")

    def seconds(self, rows: int) -> float:
        began = time.perf_counter()
        extractor = self.net.create_extractor()
        # a clone: NOTES, "Mats own their memory"
        extractor.input("x0", ncnn.Mat(np.ones((rows, self.hidden), np.float32)).clone())
        status, _ = extractor.extract(self.last)
        assert status == 0, f"ncnn failed with {status}"
        return time.perf_counter() - began


def _bfloat16(option: ncnn.Option, threads: int) -> None:
    option.num_threads = threads
    option.use_vulkan_compute = False
    option.use_fp16_packed = option.use_fp16_storage = option.use_fp16_arithmetic = False
    option.use_bf16_packed = option.use_bf16_storage = True
