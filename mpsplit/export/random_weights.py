"""safetensors files full of random numbers, of any size. In: names and shapes. Out: a file; memory of a piece of a tensor. No torch.

The same names and shapes give the same bytes. Norms are near 1, everything else is small.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np

PIECE = 4 << 20  # elements that are held at a time
DTYPES = {"float16": "F16", "bfloat16": "BF16"}
SPREAD = 0.02
TENSORS_BEGIN = 8  # a header is padded, so that tensors lie at multiples of this


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % TENSORS_BEGIN)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            for start in range(0, math.prod(shape), PIECE):
                count = min(PIECE, math.prod(shape) - start)
                numbers = generator.standard_normal(count, np.float32) * np.float32(SPREAD) + (len(shape) == 1)
                file.write(_narrow(numbers.astype(np.float32, copy=False), dtype))


def _narrow(numbers: np.ndarray, dtype: str) -> np.ndarray:
    return numbers.astype(np.float16) if dtype == "float16" else (numbers.view(np.uint32) >> 16).astype(np.uint16)
