"""The files of one stage, in the folder of its rank.

In: the stem of a stage's names, what is there. Out: StageFiles, names within the folder.

Invariant: a stage's files are its own, and so are those of a shard; no other stage reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mpsplit.package.stages.built import IREE, NCNN

# of each compiler: the graph, the weights, the program
SUFFIXES = {NCNN: (".param", ".bin", ""), IREE: (".mlir", ".irpa", ".vmfb")}
COMPILED = tuple(suffix for of_compiler in SUFFIXES.values() for suffix in of_compiler if suffix)


def stem_of(stage: int, part: int | None = None) -> str:
    """Of a stage's own graph, or of a shard of one of its parts."""
    return f"stage-{stage:02}" if part is None else f"stage-{stage:02}.shard-{part:02}"


def tables_name(stem: str) -> str:
    return f"{stem}.npz"


@dataclass(frozen=True)
class StageFiles:
    """`graph`: as text, `floats`: its weights, `program`: machine code of the graph, `packed`: the
    quantised matrices, `tables`: rows by position; the last three where there are some."""

    graph: str
    floats: str
    packed: str | None = None
    tables: str | None = None
    program: str | None = None

    @classmethod
    def named(cls, stem: str, packed: bool = True, tables: bool = True, compiler: str = NCNN) -> StageFiles:
        graph, floats, program = SUFFIXES[compiler]
        return cls(
            f"{stem}{graph}",
            f"{stem}{floats}",
            f"{stem}.packed.bin" if packed else None,
            tables_name(stem) if tables else None,
            f"{stem}{program}" if program else None,
        )

    @classmethod
    def of(cls, names: Collection[str], stem: str, compiler: str = NCNN) -> StageFiles:
        """Those that are among the names in the folder."""
        everything = cls.named(stem)
        return cls.named(stem, everything.packed in names, everything.tables in names, compiler)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.graph, self.program, self.floats, self.packed, self.tables)))


@dataclass(frozen=True)
class ShellNames:
    """What partition leaves for convert: TorchScript, where its weights are, the graph to read."""

    script: str
    facts: str
    text: str


def shell_names(stem: str) -> ShellNames:
    return ShellNames(f"{stem}.pt", f"{stem}.json", f"{stem}.fx.txt")
