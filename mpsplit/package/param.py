"""The text of an ncnn .param file as dataclasses. In: text. Out: text, the same bytes when nothing was changed.

Invariant: every blob has one producer and at most one consumer (ncnn's rule; Split copies a blob for several).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

MAGIC = "7767517"


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
        kind, name, bottoms, tops, *rest = line.split()
        b, t = int(bottoms), int(tops)
        return cls(kind, name, tuple(rest[:b]), tuple(rest[b : b + t]), dict(p.split("=", 1) for p in rest[b + t :]))

    def __str__(self) -> str:
        words = [*self.bottoms, *self.tops, *(f"{key}={value}" for key, value in self.params.items())]
        return f"{self.type:<24} {self.name:<24} {len(self.bottoms)} {len(self.tops)} {' '.join(words)}"

    def rename(self, names: dict[str, str]) -> Layer:
        """The same layer with blobs renamed."""
        swap = lambda blobs: tuple(names.get(blob, blob) for blob in blobs)  # noqa: E731
        return replace(self, bottoms=swap(self.bottoms), tops=swap(self.tops))


@dataclass(frozen=True)
class Param:
    layers: tuple[Layer, ...]

    @classmethod
    def parse(cls, text: str) -> Param:
        magic, _, *lines = text.splitlines()
        assert magic == MAGIC, f"not an ncnn .param: it begins with {magic!r}"
        return cls(tuple(Layer.parse(line) for line in lines if line.strip()))

    @classmethod
    def load(cls, path: Path) -> Param:
        return cls.parse(Path(path).read_text(encoding="utf-8"))

    def __str__(self) -> str:
        blobs = sum(len(layer.tops) for layer in self.layers)
        return "\n".join([MAGIC, f"{len(self.layers)} {blobs}", *map(str, self.layers)]) + "\n"

    def of_type(self, *types: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.type in types]

    def consumers(self, blob: str) -> list[Layer]:
        return [layer for layer in self.layers if blob in layer.bottoms]

    def producer(self, blob: str) -> Layer:
        return next(layer for layer in self.layers if blob in layer.tops)
