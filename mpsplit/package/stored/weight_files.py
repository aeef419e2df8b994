"""Which files hold a rank's weights, and where its packed matrices lie.

In: rank.txt. Out: names in the rank's folder, mapped bytes.

    floats weights/NAME.bin            what ncnn's own layers have, in the order of model.param
    embedding weights/NAME.bin         rows of the embedding, on a rank that has the first layers
    packed OFFSET weights/NAME.bin     matrices and biases of QLinear layers, several files

The packed files lie in one space of offsets, in units of ALIGNMENT, each at a multiple of a large
page: so the graph has one number for a place, and does not depend on names. Invariant: no name
leads out of the folder, no two files overlap, and nothing is read between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package.manifest import RANK_TEXT
from mpsplit.package.param_text import REMEDY, integer
from mpsplit.package.stored.float_weights import ALIGNMENT, FLOAT_BYTES
from mpsplit.package.stored.quantisation import QLinear
from mpsplit.package.whole_files import mapped, read_text

FOLDER = "weights"
# extensions/engine/rank_facts.cpp has the same
NAME = re.compile(FOLDER + r"/[A-Za-z0-9_-]{1,64}[.]bin")
LARGE_PAGE = (2 << 20) // ALIGNMENT  # in units of the alignment
WORDS = {"floats": 1, "embedding": 1, "packed": 2}  # behind each name of a line


def next_file(end: int) -> int:
    """Where the next packed file begins, when the one before it ends there."""
    return -(-end // LARGE_PAGE) * LARGE_PAGE


@dataclass
class PackedPlaces:
    """Hands out places to packed matrices, one after the other, each with its bias behind it; where
    the group changes, a file begins. `end`: where the last of them ends, in units of ALIGNMENT."""

    end: int = 0
    group: object = None

    def place(self, linear: QLinear, group: object) -> QLinear:
        offset = self.end if group == self.group else next_file(self.end)
        bias = offset + -(-linear.bytes // ALIGNMENT)
        self.end = bias + (linear.bias >= 0) * -(-linear.n * FLOAT_BYTES // ALIGNMENT)
        self.group = group
        return replace(linear, offset=offset, bias=bias if linear.bias >= 0 else -1)


@dataclass(frozen=True)
class WeightFiles:
    """`packed`: offset and name of each file, in ascending order."""

    floats: str
    embedding: str | None = None
    packed: tuple[tuple[int, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.floats, *filter(None, [self.embedding]), *(name for _, name in self.packed))

    def __str__(self) -> str:
        lines = [f"floats {self.floats}", *([f"embedding {self.embedding}"] if self.embedding else [])]
        return "".join(f"{line}\n" for line in [*lines, *(f"packed {offset} {name}" for offset, name in self.packed)])

    @classmethod
    def load(cls, folder: Path) -> WeightFiles:
        path = folder / RANK_TEXT
        lines = [line.split() for line in read_text(path, REMEDY).splitlines()]
        places = {kind: [words[1:] for words in lines if words[:1] == [kind]] for kind in WORDS}
        try:
            if len(places["floats"]) != 1 or len(places["embedding"]) > 1:
                raise PackageError("it must name one file of floats, and at most one of an embedding")
            for kind, lines_of_kind in places.items():
                for words in lines_of_kind:
                    if len(words) != WORDS[kind] or not NAME.fullmatch(words[-1]):
                        raise PackageError(f"{kind} {' '.join(words)[:80]!a} is no place for weights")
            packed = tuple((integer(offset), name) for offset, name in places["packed"])
            starts = [offset for offset, _ in packed]
            if any(start < 0 or start % LARGE_PAGE for start in starts) or starts != sorted(set(starts)):
                raise PackageError(f"packed files cannot lie at {', '.join(map(str, starts))[:80]}")
        except PackageError as wrong:
            raise PackageError(f"{path} is damaged ({wrong}); {REMEDY}") from None
        embedding = places["embedding"][0][0] if places["embedding"] else None
        return cls(places["floats"][0][0], embedding, packed)

    def spans(self, folder: Path) -> list[range]:
        """The bytes of the space of offsets that each packed file has."""
        starts = [offset * ALIGNMENT for offset, _ in self.packed]
        spans = [
            range(start, start + size_of(folder / name)) for start, (_, name) in zip(starts, self.packed, strict=True)
        ]
        for (_, name), span, following in zip(self.packed, spans, spans[1:], strict=False):
            if span.stop > following.start:
                raise PackageError(f"{folder / name} reaches into the next file; {REMEDY}")
        return spans


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise PackageError(f"{path} is missing; {REMEDY}") from None


def inside(spans: list[range], offset: int, size: int) -> int | None:
    """The number of the file that has all of `size` bytes at an offset in units of ALIGNMENT."""
    start = offset * ALIGNMENT
    return next(
        (i for i, span in enumerate(spans) if span.start <= start and size >= 0 and start + size <= span.stop), None
    )


@dataclass(frozen=True)
class Packed:
    """The packed files of a rank, mapped."""

    spans: list[range]
    arrays: list[np.ndarray]

    @classmethod
    def load(cls, folder: Path, files: WeightFiles) -> Packed:
        return cls(files.spans(folder), [mapped(folder / name, np.uint8) for _, name in files.packed])

    def at(self, offset: int, size: int) -> np.ndarray | None:
        """uint8 [size]; None where no file has them all."""
        number = inside(self.spans, offset, size)
        if number is None:
            return None
        start = offset * ALIGNMENT - self.spans[number].start
        return self.arrays[number][start : start + size]
