"""Encrypted files that can be read in pieces.

In: bytes, a Vault, the file's path in its package. Out: a sealed file, and back.

    header   MPSEALED, version, algorithm, bytes of a chunk, 32 random bytes of salt:
             48 bytes, little-endian
    chunks   ciphertext and a tag of 16 bytes each; all are full but the last

A file's own key is derived from the user's key, the salt, the header, the package's id and the
file's path; a chunk's nonce is its number and whether it is the last. Invariant: what is given out
was authenticated with its place; a chunk that was changed, moved, left out, repeated or taken from
another file is an error that names the file. No key sees a nonce twice: a writer only appends, and
starting again means another salt.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mpsplit.errors import PackageError
from mpsplit.package.sealed.keys import Key

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAGIC, VERSION = b"MPSEALED", 1  # extensions/engine/rank_facts.cpp knows the magic
HEADER = struct.Struct("<8sBBHI32s")
NONCE = struct.Struct(">Q3xB")
SALT, TAG = 32, 16
CHUNK = 1 << 20
LARGEST_CHUNK = 1 << 24
ALGORITHMS = {"AES-256-GCM": 1, "ChaCha20-Poly1305": 2}
DEFAULT = "AES-256-GCM"
CLASSES = {1: "AESGCM", 2: "ChaCha20Poly1305"}


class Cipher(Protocol):
    """One of CLASSES with a key in it."""

    def encrypt(self, nonce: bytes, data: ReadableBuffer, associated_data: None, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: ReadableBuffer, associated_data: None, /) -> bytes: ...


def _cipher(algorithm: int, key: bytes) -> Cipher:
    from cryptography.hazmat.primitives.ciphers import aead

    cipher: Cipher = getattr(aead, CLASSES[algorithm])(key)
    return cipher


@dataclass(frozen=True)
class Vault:
    """What opens the files of one package: the user's key and the package's id, 16 random bytes in
    hex."""

    key: Key
    package: str
    algorithm: str = DEFAULT
    chunk: int = CHUNK

    @classmethod
    def new(cls, key: Key, algorithm: str = DEFAULT, chunk: int = CHUNK) -> Vault:
        return cls(key, secrets.token_hex(16), algorithm, chunk)

    def create(self, path: Path, name: str) -> SealedWriter:
        """A file at `path` that will be `name` in the package."""
        return SealedWriter(path, self, name)

    def creator(self, package: Path) -> Callable[[Path], SealedWriter]:
        """`create` as float_weights.py takes it, for paths inside the package."""
        return lambda path: self.create(path, path.relative_to(package).as_posix())

    def open(self, path: Path, name: str) -> SealedReader:
        return SealedReader(path, self, name)

    def _cipher(self, header: bytes, name: str) -> Cipher:
        magic, version, algorithm, _, _, salt = HEADER.unpack(header)
        about = header + bytes.fromhex(self.package) + name.encode()
        return _cipher(algorithm, self.key.derive("file", salt, about))


def sealed_size(plain: int, chunk: int = CHUNK) -> int:
    return HEADER.size + plain + TAG * max(1, -(-plain // chunk))


class SealedWriter:
    """A file to write to, as `open(path, "wb")` gives it; nothing but sealed bytes reaches the
    disk.

    `close` seals the last chunk; until then, and after an error inside `with`, the file is none
    that a reader takes.
    """

    def __init__(self, path: Path, vault: Vault, name: str):
        self.chunk = vault.chunk
        assert 0 < self.chunk <= LARGEST_CHUNK
        header = HEADER.pack(MAGIC, VERSION, ALGORITHMS[vault.algorithm], 0, self.chunk, secrets.token_bytes(SALT))
        self._cipher = vault._cipher(header, name)
        self._held = bytearray()  # not sealed yet: at most a chunk, for it may be the last
        self._count = self._size = 0
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (closed by the with of its user)
        self._put(header)

    def __enter__(self) -> SealedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.abandon()

    def write(self, data: ReadableBuffer, /) -> int:
        assert not self._file.closed, "written to after close"
        with memoryview(data) as view, view.cast("B") as plain:
            at = 0
            while at < len(plain):
                if len(self._held) == self.chunk:
                    self._seal(self._held, last=False)
                    self._held = bytearray()
                taken = min(self.chunk - len(self._held), len(plain) - at)
                # a whole chunk, and not the last
                if taken == self.chunk and at + taken < len(plain):
                    self._seal(plain[at : at + taken], last=False)
                else:
                    self._held += plain[at : at + taken]
                at += taken
            self._size += at
        return at

    def tell(self) -> int:
        """Plain bytes so far."""
        return self._size

    def close(self) -> None:
        if not self._file.closed:
            try:
                self._seal(self._held, last=True)
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Leaves the file without its end, so that no reader takes it."""
        self._held = bytearray()
        self._file.close()

    def _seal(self, plain: ReadableBuffer, last: bool) -> None:
        sealed = self._cipher.encrypt(NONCE.pack(self._count, last), plain, None)
        self._count += 1  # before it is written: a number that failed on its way is not used again
        self._put(sealed)

    def _put(self, data: bytes) -> None:
        with memoryview(data) as rest:
            at = 0
            while at < len(rest):
                at += self._file.write(rest[at:]) or 0


class SealedReader:
    """The plain bytes of a sealed file. Opening authenticates the last chunk, and so the length."""

    def __init__(self, path: Path, vault: Vault, name: str):
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by the with of its user)
        try:
            header, sealed = self._file.read(HEADER.size), os.fstat(self._file.fileno()).st_size
            self.chunk = self._check(header)
            self._cipher = vault._cipher(header, name)
            body = sealed - HEADER.size
            self.chunks = -(-body // (self.chunk + TAG))
            self.size = body - TAG * self.chunks
            # bytes of the last chunk: only an empty file has an empty one
            shortest = int(self.chunks > 1)
            if body < TAG or self.size - (self.chunks - 1) * self.chunk < shortest:
                raise self._refused("it was cut short")
            self._last = self._open_chunk(self.chunks - 1)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SealedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset`, fewer where the file ends before."""
        stop = self.size if size is None else min(self.size, offset + size)
        assert offset >= 0 and (size is None or size >= 0)
        plain = bytearray()
        while offset < stop:
            number, at = divmod(offset, self.chunk)
            piece = self._chunk(number)[at : at + stop - offset]
            plain += piece
            offset += len(piece)
        return bytes(plain)

    def pieces(self) -> Iterator[bytes]:
        """All of it, chunk by chunk."""
        return map(self._chunk, range(self.chunks))

    def read_into(self, buffer: WriteableBuffer) -> None:
        """All of it into a buffer of its size."""
        with memoryview(buffer) as view, view.cast("B") as plain:
            assert len(plain) == self.size
            at = 0
            for piece in self.pieces():
                plain[at : at + len(piece)] = piece
                at += len(piece)

    def _chunk(self, number: int) -> bytes:
        return self._last if number == self.chunks - 1 else self._open_chunk(number)

    def _open_chunk(self, number: int) -> bytes:
        from cryptography.exceptions import InvalidTag

        sealed = os.pread(self._file.fileno(), self.chunk + TAG, HEADER.size + number * (self.chunk + TAG))
        try:
            return self._cipher.decrypt(NONCE.pack(number, number == self.chunks - 1), sealed, None)
        except (InvalidTag, ValueError):  # ValueError: the file became shorter while it was read
            raise self._refused(f"its chunk {number} of {self.chunks} does not fit the key and its place") from None

    def _check(self, header: bytes) -> int:
        """The size of a chunk, where the header can be one."""
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise self._refused("it does not begin as an encrypted file")
        _, version, algorithm, zero, chunk, _ = HEADER.unpack(header)
        if version != VERSION:
            raise PackageError(
                f"{self.path} is encrypted in version {version}, this mpsplit reads {VERSION}; update mpsplit"
            )
        if algorithm not in CLASSES or zero or not 0 < chunk <= LARGEST_CHUNK:
            raise self._refused("its header is damaged")
        return int(chunk)

    def _refused(self, why: str) -> PackageError:
        return PackageError(
            f"{self.path} cannot be decrypted: {why}; copy it again, or give the key it was encrypted with"
        )
