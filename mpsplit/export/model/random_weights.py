"""safetensors files full of random numbers, of any size.

In: names and shapes. Out: a file; memory of a piece of a tensor. No torch. Norms are near 1,
everything else is small. Numbers come again after a piece, each time turned by a prime: to draw
billions would take longer than anything that they are made for.

Invariant: the same names and shapes give the same bytes.
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
TURN = 999_983
TENSORS_BEGIN = 8  # a header is padded, so that tensors lie at multiples of this


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    header: dict[str, dict[str, object]] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % TENSORS_BEGIN)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            size = math.prod(shape)
            numbers = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(min(size, PIECE), np.float32)
            numbers = _narrow(numbers * np.float32(SPREAD) + np.float32(len(shape) == 1), dtype)
            for start in range(0, size, PIECE):
                file.write(np.roll(numbers, TURN * start // PIECE)[: size - start].data)


def _narrow(numbers: np.ndarray, dtype: str) -> np.ndarray:
    return numbers.astype(np.float16) if dtype == "float16" else (numbers.view(np.uint32) >> 16).astype(np.uint16)
