"""Weight files, written piece by piece from their source.

In: Arrays. Out: the file, and the address of what is in it; memory of a piece, never of a tensor.

An address is the hash of the arrays' outlines and of the source's bytes that they are made of. A
plain file's size is its journal: a piece is only written once all before it are on the disk, so
that of a file found after an interruption, at any moment, everything but the last piece is right,
and that is made again. A sealed file is begun anew. Invariant: resumed or not, the bytes are the
same; each slice is read once, also what only the address needs.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mpsplit.export.weights.weight_contents import Array
from mpsplit.export.weights.weight_source import Source
from mpsplit.package.stored.float_weights import PIECE, Create

Tell = Callable[[str, int], None]  # a tensor's name, bytes written


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
    with create(path) if create else _Continued(path, done) as file:
        held = bytearray()
        for name, data in _bytes_from(arrays, source, digest, done):
            held += data
            while len(held) >= PIECE:
                file.write(memoryview(held)[:PIECE])
                held = held[PIECE:]
            tell(name, len(data))
        file.write(memoryview(held))
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

    def write(self, data: memoryview) -> None:
        while len(data):
            data = data[os.write(self.descriptor, data) :]
        os.fdatasync(self.descriptor)


def _bytes_from(
    arrays: Sequence[Array], source: Source, digest, begin: int
) -> Iterator[tuple[str, bytes | memoryview]]:
    """The file's bytes from `begin` on; what lies before it is only read, for the digest."""
    at = 0
    for array in arrays:
        for size, make in _pieces(array, source, digest):
            if size and at + size > begin:
                data = make()
                assert len(data) == size, f"{array.name}: {len(data)} bytes instead of {size}"
                yield array.name, data[max(0, begin - at) :]
            at += size


def _pieces(array: Array, source: Source, digest) -> Iterator[tuple[int, Callable[[], bytes | memoryview]]]:
    """(bytes, what makes them) one after the other. What they are made of is read and goes through
    `digest` in any case."""
    dtype = source.type_of(array.name)
    digest.update(f"{array.outline} {dtype}\n".encode())
    yield len(array.before), lambda: array.before
    for start, stop, size in array.pieces():
        read = partial(source.stored, array.name, array.part, start, stop)
        if not array.is_derived:
            digest.update(stored := read())
            read = partial(lambda held: held, stored)
        yield size, lambda read=read, start=start: memoryview(array.make(read, dtype, start)).cast("B")
    yield array.after, lambda: bytes(array.after)
