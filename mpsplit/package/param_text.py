"""The text of an ncnn .param file as dataclasses.

In: text. Out: text, the same bytes when nothing was changed.

Invariant: every blob has one producer and at most one consumer (ncnn's rule; Split copies a blob
for several).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.whole_files import read_text

MAGIC = "7767517"
REMEDY = "copy it again or run `mpsplit convert`"
LONGEST_WORD = 255  # ncnn's buffers; longer words would be read as two
NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)  # Python's int() takes more: 1_0, Arabic digits


def integer(word: str) -> int:
    if not NUMBER.fullmatch(word):
        raise PackageError(f"{word[:40]!a} is no whole number")
    return int(word)


@dataclass(frozen=True)
class Layer:
    """One line: `params` maps an id ("0", "-23303") to its text ("48", "1.000000e-6", "1,0")."""

    type: str
    name: str
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    params: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> Layer:
        words = line.split()
        if len(words) < 4 or max(map(len, words)) > LONGEST_WORD:
            raise PackageError(f"no layer: {line[:60]!a}")
        kind, name, bottoms, tops, *rest = words
        b, t = integer(bottoms), integer(tops)
        if b < 0 or t < 0 or b + t > len(rest):
            raise PackageError(f"{name!a} counts {b} + {t} blobs and names {len(rest)}")
        pairs = [word.partition("=")[::2] for word in rest[b + t :]]
        params = dict(pairs)
        if len(params) < len(pairs) or not all(params) or not all(params.values()):
            raise PackageError(f"{name!a} has a parameter twice, or one that says nothing")
        return cls(kind, name, tuple(rest[:b]), tuple(rest[b : b + t]), params)

    def number(self, key: str, otherwise: int | None = None) -> int:
        """An integer parameter."""
        if key in self.params:
            return integer(self.params[key])
        if otherwise is None:
            raise PackageError(f"{self.name!a} ({self.type}) lacks parameter {key}")
        return otherwise

    def __str__(self) -> str:
        words = [*self.bottoms, *self.tops, *(f"{key}={value}" for key, value in self.params.items())]
        return f"{self.type:<24} {self.name:<24} {len(self.bottoms)} {len(self.tops)} {' '.join(words)}"

    def rename(self, names: dict[str, str]) -> Layer:
        """The same layer with blobs renamed."""
        bottoms, tops = (tuple(names.get(blob, blob) for blob in blobs) for blobs in (self.bottoms, self.tops))
        return replace(self, bottoms=bottoms, tops=tops)


@dataclass(frozen=True)
class Param:
    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, text: str) -> Param:
        magic, *lines = text.split("\n")
        if magic.strip() != MAGIC:
            raise PackageError(f"not an ncnn .param: it begins with {magic[:20]!a}")
        return cls(tuple(Layer.parse(line) for line in lines[1:] if line.strip()))

    @classmethod
    def load(cls, path: Path) -> Param:
        """The graph of a file, whose counts are those of its lines: ncnn believes them."""
        text = read_text(Path(path), REMEDY)
        try:
            param = cls.parse(text)
            counts = (text.split("\n") + [""])[1].split()
            if list(map(integer, counts)) != [len(param.layers), sum(len(layer.tops) for layer in param.layers)]:
                raise PackageError(f"it counts {' '.join(counts)[:40]!a} layers and blobs and has others")
        except PackageError as wrong:
            raise PackageError(f"{path} is damaged ({wrong}); {REMEDY}") from None
        return param

    def __str__(self) -> str:
        blobs = sum(len(layer.tops) for layer in self.layers)
        return "\n".join([MAGIC, f"{len(self.layers)} {blobs}", *map(str, self.layers)]) + "\n"

    def of_type(self, *types: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.type in types]

    def consumers(self, blob: str) -> list[Layer]:
        return [layer for layer in self.layers if blob in layer.bottoms]

    def producer(self, blob: str) -> Layer:
        return next(layer for layer in self.layers if blob in layer.tops)


# -- Splits off and on again: without them a blob may have many readers, and a graph is best changed


def without_splits(layers: tuple[Layer, ...]) -> list[Layer]:
    source: dict[str, str] = {}
    for layer in layers:
        if layer.type == "Split":
            source |= dict.fromkeys(layer.tops, source.get(layer.bottoms[0], layer.bottoms[0]))
    return [
        replace(layer, bottoms=tuple(source.get(b, b) for b in layer.bottoms))
        for layer in layers
        if layer.type != "Split"
    ]


def with_splits(layers: list[Layer]) -> tuple[Layer, ...]:
    """Every blob with one reader again."""
    readers: dict[str, int] = {}
    for layer in layers:
        for blob in layer.bottoms:
            readers[blob] = readers.get(blob, 0) + 1
    handed: dict[str, list[str]] = {}
    taken = {blob for layer in layers for blob in layer.tops}
    out = []
    for layer in layers:
        out.append(replace(layer, bottoms=tuple(handed[b].pop(0) if b in handed else b for b in layer.bottoms)))
        for blob in layer.tops:
            if readers.get(blob, 0) > 1:
                handed[blob] = [_free(f"{blob}_{i}", taken) for i in range(readers[blob])]
                out.append(Layer("Split", f"split_{blob}", (blob,), tuple(handed[blob])))
    return tuple(out)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
