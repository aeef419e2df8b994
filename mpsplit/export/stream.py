"""Weight files, written piece by piece from their source. In: a list of Arrays. Out: the file; memory of a piece, never of a tensor.

While it grows, a file is called .NAME.KEY.partial, where KEY stands for all that decides its bytes. Its size is its journal: a piece
is only written once all before it are on the disk, so that of a file found after an interruption, at any moment, everything but the
last piece is right, and that is made again. Invariant: resumed or not, the bytes are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mpsplit.export.contents import Array, Source
from mpsplit.package.weights import PIECE

Tell = Callable[[str, int], None]  # a tensor's name, bytes written


def partial_path(path: Path, key: str) -> Path:
    return path.with_name(f".{path.name}.{key}.partial")


def size_of(arrays: list[Array]) -> int:
    return sum(array.total for array in arrays)


def done_of(path: Path, key: str) -> int:
    """Bytes of the partial file that can be kept."""
    partial = partial_path(path, key)
    size = partial.stat().st_size if partial.exists() else 0
    return max(0, size - 1) // PIECE * PIECE


def write(path: Path, key: str, arrays: list[Array], source: Source, tell: Tell) -> None:
    """Makes the partial file whole."""
    done = done_of(path, key)
    tell("", done)
    descriptor = os.open(partial_path(path, key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.truncate(descriptor, done)
        os.lseek(descriptor, done, os.SEEK_SET)
        held = bytearray()
        for name, data in _bytes_from(arrays, source, done):
            held += data
            while len(held) >= PIECE:
                _append(descriptor, memoryview(held)[:PIECE])
                held = held[PIECE:]
            tell(name, len(data))
        _append(descriptor, memoryview(held))
    finally:
        os.close(descriptor)


def _append(descriptor: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(descriptor, data) :]
    os.fdatasync(descriptor)


def _bytes_from(arrays: list[Array], source: Source, begin: int) -> Iterator[tuple[str, bytes | memoryview]]:
    """The file's bytes from `begin` on; what lies before it is not even read."""
    at = 0
    for array in arrays:
        pieces = [(len(array.before), lambda a=array: a.before)]
        for start, stop, size in array.pieces():
            pieces.append((size, lambda a=array, r=(start, stop): memoryview(a.make(source, *r)).cast("B")))
        pieces.append((array.after, lambda a=array: bytes(a.after)))
        for size, make in pieces:
            if size and at + size > begin:
                data = make()
                assert len(data) == size, f"{array.name}: {len(data)} bytes instead of {size}"
                yield array.name, data[max(0, begin - at) :]
            at += size
