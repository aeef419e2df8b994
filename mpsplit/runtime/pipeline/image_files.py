"""Images on disk as arrays of numbers.

In: a file. Out: uint8 [height, width, 3].

Pillow reads what it knows, where it is installed. Without it PNG (8 bits, not interlaced) and
binary PPM and PGM are read here.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np

from mpsplit.errors import RunError

PNG = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's kinds of colour
PALETTE = 3
LARGEST = 1 << 27  # numbers of an image


def read_image(path: Path) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as wrong:
        raise RunError(f"--image {path} cannot be read ({wrong.strerror}); name an image") from None
    image: np.ndarray | None
    try:
        image = _by_pillow(path)
    except ImportError:
        image = _by_us(data)
    except Exception as wrong:  # Pillow has many kinds of error, and each means that it is no image
        raise RunError(f"--image {path} is no image ({str(wrong)[:200]})") from None
    if image is None:
        raise RunError(
            f"--image {path} ({len(data)} bytes) is no image that can be read: a PNG of 8 bits, PPM or PGM; with"
            " `pip install pillow` also JPEG and others"
        )
    return image


def _by_pillow(path: Path) -> np.ndarray:
    from PIL import Image  # type: ignore[import-not-found]

    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _by_us(data: bytes) -> np.ndarray | None:
    try:
        return _png(data) if data.startswith(PNG) else _pnm(data)
    except (ValueError, IndexError, KeyError, struct.error, zlib.error):
        return None


def _pnm(data: bytes) -> np.ndarray | None:
    found = re.match(rb"(P[56])\s(?:#[^\n]*\n|\s)*(\d{1,6})\s+(\d{1,6})\s+255\s", data)
    if not found:
        return None
    channels = 3 if found[1] == b"P6" else 1
    width, height = int(found[2]), int(found[3])
    pixels = np.frombuffer(data, np.uint8, width * height * channels, found.end())
    return _coloured(pixels.reshape(height, width, channels))


def _png(data: bytes) -> np.ndarray | None:
    chunks: dict[bytes, bytes] = {}
    at = len(PNG)
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks[kind] = chunks.get(kind, b"") + data[at + 8 : at + 8 + size]
        at += 12 + size
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = CHANNELS[colour]
    stride = width * channels
    if depth != 8 or interlaced or not 0 < height * stride <= LARGEST:
        return None
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(chunks[b"IDAT"], height * (stride + 1))
    lines = np.frombuffer(raw, np.uint8, height * (stride + 1)).reshape(height, stride + 1)
    pixels = _unfiltered(lines, channels).reshape(height, width, channels)
    if colour == PALETTE:
        return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[pixels[..., 0]]
    return _coloured(pixels)


def _unfiltered(lines: np.ndarray, channels: int) -> np.ndarray:
    """Each line of a PNG says how it was predicted from the pixel before and the line above."""
    out = np.zeros((len(lines) + 1, lines.shape[1] - 1), np.uint8)
    for row, line in enumerate(lines, start=1):
        out[row] = _line(int(line[0]), line[1:], out[row - 1], channels)
    return out[1:]


def _line(kind: int, line: np.ndarray, above: np.ndarray, channels: int) -> np.ndarray:
    if kind == 0:
        return line
    if kind == 2:
        return line + above
    if kind == 1:
        return np.cumsum(line.reshape(-1, channels), axis=0, dtype=np.uint8).reshape(-1)
    if kind not in (3, 4):
        raise ValueError(f"a line of kind {kind}")
    done = bytearray(len(line))
    for i, value in enumerate(line.tolist()):
        left = done[i - channels] if i >= channels else 0
        up = int(above[i])
        corner = int(above[i - channels]) if i >= channels else 0
        done[i] = (value + ((left + up) // 2 if kind == 3 else _paeth(left, up, corner))) & 255
    return np.frombuffer(bytes(done), np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]


def _coloured(pixels: np.ndarray) -> np.ndarray:
    """Grey becomes three equal channels; a channel of transparency goes."""
    channels = pixels.shape[-1]
    return np.repeat(pixels[..., :1], 3, axis=-1) if channels < 3 else pixels[..., :3]
