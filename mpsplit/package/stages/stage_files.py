"""The files of one stage, in the folder of its rank.

In: the stem of a stage's names, what is there. Out: StageFiles, names within the folder.

Invariant: a stage's files are its own, and so are those of a shard; no other stage reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


def stem_of(stage: int, part: int | None = None) -> str:
    """Of a stage's own graph, or of a shard of one of its parts."""
    return f"stage-{stage:02}" if part is None else f"stage-{stage:02}.shard-{part:02}"


@dataclass(frozen=True)
class StageFiles:
    """`graph`: ncnn's text, `floats`: its weights, `packed`: the quantised matrices, `tables`: rows
    by position; the last two where there are some."""

    graph: str
    floats: str
    packed: str | None = None
    tables: str | None = None

    @classmethod
    def named(cls, stem: str, packed: bool = True, tables: bool = True) -> StageFiles:
        return cls(
            f"{stem}.param", f"{stem}.bin", f"{stem}.packed.bin" if packed else None, f"{stem}.npz" if tables else None
        )

    @classmethod
    def of(cls, names: Collection[str], stem: str) -> StageFiles:
        """Those that are among the names in the folder."""
        everything = cls.named(stem)
        return cls.named(stem, everything.packed in names, everything.tables in names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.graph, self.floats, self.packed, self.tables)))


@dataclass(frozen=True)
class ShellNames:
    """What partition leaves for convert: TorchScript, where its weights are, the graph to read."""

    script: str
    facts: str
    text: str


def shell_names(stem: str) -> ShellNames:
    return ShellNames(f"{stem}.pt", f"{stem}.json", f"{stem}.fx.txt")
