"""Weight files, written piece by piece from their source.

In: Arrays. Out: the file, and the address of what is in it; memory of a piece, never of a tensor.

An address is the hash of the arrays' outlines and of the source's bytes that they are made of. A
plain file's size is its journal: a piece is only written once all before it are on the disk. So of
a file found after an interruption, at any moment, everything but the last piece is right, and that
is made again. A sealed file is begun anew.

Invariant: resumed or not, the bytes are the same; each slice is read once, also what only the
address needs.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mpsplit.export.weights.weight_contents import Array
from mpsplit.export.weights.weight_source import Source
from mpsplit.package.stored.float_weights import PIECE, Create, Written

Tell = Callable[[str, int], None]  # a tensor's name, bytes written
Bytes = bytes | memoryview


def done_of(path: Path) -> int:
    """Bytes of an interrupted file that can be kept."""
    size = path.stat().st_size if path.exists() else 0
    return max(0, size - 1) // PIECE * PIECE


def write(
    path: Path,
    arrays: Sequence[Array],
    source: Source,
    tell: Tell,
    create: Create | None = None,
    salt: bytes = b"",
) -> str:
    """Makes the file whole; its address. `create`: what seals it; `salt`: so that nobody else can
    tell the address."""
    digest, done = hashlib.sha256(salt), 0 if create else done_of(path)
    tell("", done)
    file: Written = create(path) if create else _Continued(path, done)
    with file:
        waiting = bytearray()
        for name, data in _bytes_from(arrays, source, digest, done):
            waiting += data
            while len(waiting) >= PIECE:
                file.write(memoryview(waiting)[:PIECE])
                waiting = waiting[PIECE:]
            tell(name, len(data))
        file.write(memoryview(waiting))
    return digest.hexdigest()[:32]


def address_of(arrays: Sequence[Array], source: Source, salt: bytes = b"") -> str:
    """Where the file would be, without making it."""
    digest = hashlib.sha256(salt)
    for _ in _bytes_from(arrays, source, digest, sys.maxsize):
        pass
    return digest.hexdigest()[:32]


class _Continued:
    """A plain file that goes on behind its first `done` bytes."""

    def __init__(self, path: Path, done: int):
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.truncate(self.descriptor, done)
        os.lseek(self.descriptor, done, os.SEEK_SET)

    def __enter__(self) -> _Continued:
        return self

    def __exit__(self, *_) -> None:
        os.close(self.descriptor)

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        while len(data):
            data = data[os.write(self.descriptor, data) :]
        os.fdatasync(self.descriptor)


def _bytes_from(arrays: Sequence[Array], source: Source, digest, begin: int) -> Iterator[tuple[str, Bytes]]:
    """The file's bytes from `begin` on; what lies before it is only read, for the digest."""
    at = 0
    for array in arrays:
        for size, make in _pieces(array, source, digest):
            if size and at + size > begin:
                data = make()
                assert len(data) == size, f"{array.name}: {len(data)} bytes instead of {size}"
                yield array.name, data[max(0, begin - at) :]
            at += size


def _pieces(array: Array, source: Source, digest) -> Iterator[tuple[int, Callable[[], Bytes]]]:
    """(bytes, what makes them) one after the other. What they are made of is read and goes through
    `digest` in any case."""
    dtype = source.type_of(array.name)
    digest.update(f"{array.outline} {dtype}\n".encode())
    yield len(array.before), lambda: array.before
    for start, stop, size in array.pieces():
        read: Callable[[], np.ndarray] = partial(source.stored, array.name, array.part, start, stop)
        if not array.is_derived:
            rows = read()
            digest.update(rows)
            read = partial(_as_read, rows)
        yield size, partial(_made, array, read, dtype, start)
    yield array.after, lambda: bytes(array.after)


def _as_read(rows: np.ndarray) -> np.ndarray:
    return rows


def _made(array: Array, read: Callable[[], np.ndarray], dtype: str, start: int) -> memoryview:
    return array.make(read, dtype, start).data.cast("B")
