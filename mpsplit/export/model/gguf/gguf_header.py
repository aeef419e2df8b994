"""What a GGUF file says before its weights: settings by name, and where each tensor lies.

In: the path of a file, or of one of several (-00001-of-00003). Out: a GgufModel.

A file is a stranger's: every length is compared with what is left of the file before it is
believed, every tensor with the file's end and with its neighbours. Whatever is wrong is a
ModelError. Nothing of the weights is read.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mpsplit.errors import ModelError
from mpsplit.export.model.gguf.gguf_types import GgufType, type_of

MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT, MOST_ALIGNMENT = 32, 1 << 20  # bytes that tensors begin at multiples of
STRING, ARRAY, FLAG = 8, 9, 7
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", FLAG: "?", 10: "Q", 11: "q", 12: "d"}
NUMBERS = {kind: struct.Struct(f"<{letter}") for kind, letter in LETTERS.items()}
MOST_AXES = 4
LEAST_SETTING, LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes that one takes in the file
OF_SEVERAL = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
OTHER_ENDIAN = 1 << 16  # a version that is larger has its bytes the other way round


@dataclass(frozen=True)
class GgufTensor:
    """`shape` as others write it, rows first: the file has it the other way round. `offset` in
    the file."""

    name: str
    file: Path
    shape: tuple[int, ...]
    kind: GgufType
    offset: int

    @property
    def bytes(self) -> int:
        return self.kind.bytes_of(math.prod(self.shape))


@dataclass(frozen=True)
class GgufModel:
    files: list[Path]
    settings: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def get(self, name: str, kind: type, otherwise: Any = None) -> Any:
        """A setting of this type; without `otherwise` it must be there."""
        value = self.settings.get(name, otherwise)
        if value is None:
            raise ModelError(f"{self.files[0]} says nothing of {name}, which is needed; take a file that does")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ModelError(f"{self.files[0]} has {name} = {value!a:.80}, which is no {kind.__name__}")
        return value


def gguf_files(path: Path) -> list[Path]:
    """All files of the model, of which the user named one."""
    found = OF_SEVERAL.fullmatch(path.name)
    if not found:
        return [path]
    stem, _, count = found.groups()
    files = [path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{path.name} is one of {int(count)} files, and there is no {file}; download it")
    return files


def read_gguf(path: Path) -> GgufModel:
    files = gguf_files(path)
    settings: dict[str, Any] = {}
    tensors: dict[str, GgufTensor] = {}
    for number, file in enumerate(files):
        _, more, theirs = _read_file(file)
        if number == 0:
            settings = more
            count = settings.get("split.count", 1)
            if count not in (0, 1) and not OF_SEVERAL.fullmatch(file.name):
                raise ModelError(f"{file} is one of {count} files by what it says; give it the name that it had")
        if more.get("split.no", number) != number:
            raise ModelError(f"{file} says that it is number {more['split.no'] + 1}; it was given another's name")
        for tensor in theirs:
            if tensors.setdefault(tensor.name, tensor) is not tensor:
                raise ModelError(f"{tensor.name!a} is in {tensors[tensor.name].file.name} and in {file.name}")
    expected = settings.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise ModelError(f"{path} names {expected} tensors, and {len(tensors)} are there; download it again")
    return GgufModel(files, settings, tensors)


def header_bytes(file: Path) -> int:
    """How many bytes of a file, which may be one of several, come before its weights."""
    return _read_file(file)[0]


def _read_file(file: Path) -> tuple[int, dict[str, Any], list[GgufTensor]]:
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
            return _Header(file, data).read()
    except (OSError, ValueError) as wrong:
        if isinstance(wrong, ModelError):
            raise
        raise ModelError(f"{file} cannot be read ({wrong})") from None


class _Header:
    """Reads from the beginning of a file on; `at` is how far it is."""

    def __init__(self, file: Path, data: mmap.mmap):
        self.file, self.data, self.at = file, data, 0

    def read(self) -> tuple[int, dict[str, Any], list[GgufTensor]]:
        if self.take(4) != MAGIC:
            raise self.wrong(f"it does not begin with {MAGIC.decode()}")
        version = self.number(U32)
        if version >= OTHER_ENDIAN:
            raise ModelError(
                f"{self.file} was written for machines of the other byte order; take the little-endian one"
            )
        if version not in VERSIONS:
            raise ModelError(f"{self.file} has version {version} of GGUF; known are {' and '.join(map(str, VERSIONS))}")
        tensors, settings = self.number(U64), self.number(U64)
        self.check_room(settings, LEAST_SETTING, "settings")
        found: dict[str, Any] = {}
        for _ in range(settings):
            name = self.text()
            if name in found:
                raise self.wrong(f"{name!a} stands twice")
            found[name] = self.value(self.number(U32))
        alignment = found.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
            raise self.wrong(f"an alignment of {alignment!a:.40} bytes")
        self.check_room(tensors, LEAST_TENSOR, "tensors")
        described = [self.tensor() for _ in range(tensors)]
        begin = -(-self.at // alignment) * alignment
        return begin, found, self.placed(described, begin, alignment)

    def tensor(self) -> tuple[str, tuple[int, ...], GgufType, int]:
        name, axes = self.text(), self.number(U32)
        if not 0 < axes <= MOST_AXES:
            raise self.wrong(f"{name!a} has {axes} axes")
        shape = tuple(self.number(U64) for _ in range(axes))[::-1]
        return name, shape, type_of(self.number(U32), name), self.number(U64)

    def placed(
        self, described: list[tuple[str, tuple[int, ...], GgufType, int]], begin: int, alignment: int
    ) -> list[GgufTensor]:
        tensors, size = [], len(self.data)
        for name, shape, kind, offset in described:
            if not all(shape) or shape[-1] % kind.weights:
                raise self.wrong(
                    f"{name!a} of {kind.name} {list(shape)} is no whole number of blocks of {kind.weights}"
                )
            tensor = GgufTensor(name, self.file, shape, kind, begin + offset)
            if offset % alignment or tensor.offset + tensor.bytes > size:
                raise ModelError(
                    f"{self.file} has {size:,} bytes, and {name!a} should be at {tensor.offset:,} to"
                    f" {tensor.offset + tensor.bytes:,}; the file was cut short or is damaged, download it again"
                )
            tensors.append(tensor)
        for one, next_ in pairwise(sorted(tensors, key=lambda tensor: tensor.offset)):
            if one.offset + one.bytes > next_.offset:
                raise self.wrong(f"{one.name!a} and {next_.name!a} lie over each other")
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise self.wrong("two tensors have one name")
        return tensors

    def value(self, kind: int, inside: bool = False) -> Any:
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind != ARRAY or inside:
            raise self.wrong(f"a setting of type {kind}{' in a list' if inside else ''}")
        of, count = self.number(U32), self.number(U64)
        if of in NUMBERS:
            size = NUMBERS[of].size
            self.check_room(count, size, "numbers")
            return [number for (number,) in NUMBERS[of].iter_unpack(self.take(count * size))]
        self.check_room(count, 8, "texts")
        read: Callable[[], Any] = self.text if of == STRING else lambda: self.value(of, True)
        return [read() for _ in range(count)]

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack(self.take(kind.size))[0]

    def text(self) -> str:
        try:
            return self.take(self.number(U64)).decode()
        except UnicodeDecodeError as wrong:
            raise self.wrong(f"a text is no UTF-8: {wrong.reason}") from None

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise self.wrong(f"{length:,} bytes should follow at {self.at:,}, and it has {len(self.data):,}")
        self.at += length
        return self.data[self.at - length : self.at]

    def check_room(self, count: int, least: int, what: str) -> None:
        if count * least > len(self.data) - self.at:
            raise self.wrong(f"it has {len(self.data):,} bytes, too few for {count:,} {what}")

    def wrong(self, why: str) -> ModelError:
        return ModelError(f"{self.file} is damaged, or no GGUF file: {why}; download it again")
