"""The files of one stage, in the folder of its rank.

In: the number of a stage, what is there. Out: StageFiles, names within the folder.

Invariant: a stage's files are its own; no other stage reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class StageFiles:
    """`graph`: ncnn's text, `floats`: its weights, `packed`: the quantised matrices, `tables`: rows
    by position; the last two where there are some."""

    graph: str
    floats: str
    packed: str | None = None
    tables: str | None = None

    @classmethod
    def named(cls, number: int, packed: bool = True, tables: bool = True) -> StageFiles:
        stem = f"stage-{number:02}"
        return cls(
            f"{stem}.param", f"{stem}.bin", f"{stem}.packed.bin" if packed else None, f"{stem}.npz" if tables else None
        )

    @classmethod
    def of(cls, names: Collection[str], number: int) -> StageFiles:
        """Those that are among the names in the folder."""
        everything = cls.named(number)
        return cls.named(number, everything.packed in names, everything.tables in names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.graph, self.floats, self.packed, self.tables)))


@dataclass(frozen=True)
class ShellNames:
    """What partition leaves for convert: TorchScript, where its weights are, the graph to read."""

    script: str
    facts: str
    text: str


def shell_names(number: int) -> ShellNames:
    stem = f"stage-{number:02}"
    return ShellNames(f"{stem}.pt", f"{stem}.json", f"{stem}.fx.txt")
