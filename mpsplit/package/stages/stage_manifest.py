"""manifest.json of a pipeline of stages.

In: a folder. Out: a StageManifest, or what is wrong.

It lists every file with its hash, as that of a decoder does, and what it holds is committed and
locked in the same way. Its `kind` tells one from the other. What the stages are stands in
stages.json, a file like the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpsplit.errors import PackageError, RunError
from mpsplit.package.json_fields import many, mapping, number, one_of, record
from mpsplit.package.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    PARTITION,
    PIPELINE_KIND,
    File,
    Listed,
    RankPart,
    checked_json,
)
from mpsplit.package.manifest_fields import FILE, FILES, RANK, RANKS, TEXT
from mpsplit.package.whole_files import read_json, write_json

KIND = "kind"


@dataclass(frozen=True)
class StageManifest(Listed):
    """`architecture`: the class that was captured. `verified`: the largest difference from the
    original, by output, as `mpsplit verify` found it."""

    model: str
    architecture: str
    ranks: tuple[RankPart, ...]
    tokenizer: tuple[File, ...]
    stages: File | None
    config: File | None
    unused: tuple[str, ...]
    tools: dict[str, str]
    verified: dict[str, float] | None = None

    @property
    def shared(self) -> tuple[File, ...]:
        return (*self.tokenizer, *filter(None, [self.config, self.stages]))

    def with_files(self, files: list[tuple[File, ...]], stages: File | None, tools: dict[str, str]) -> StageManifest:
        parts = tuple(replace(part, files=its_files) for part, its_files in zip(self.ranks, files, strict=True))
        return replace(self, ranks=parts, stages=stages or self.stages, tools={**self.tools, **tools})

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            KIND: PIPELINE_KIND,
            "model": self.model,
            "architecture": self.architecture,
            "ranks": [part.to_json() for part in self.ranks],
            "tokenizer": [vars(file) for file in self.tokenizer],
            **({"stages": vars(self.stages)} if self.stages else {}),
            **({"config": vars(self.config)} if self.config else {}),
            "unused": list(self.unused),
            "tools": dict(sorted(self.tools.items())),
            **({"verified": self.verified} if self.verified else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StageManifest:
        STAGE_MANIFEST(data, "it")
        return cls(
            model=data["model"],
            architecture=data["architecture"],
            ranks=tuple(map(RankPart.from_json, data["ranks"])),
            tokenizer=File.many_from_json(data["tokenizer"]),
            stages=File(**data["stages"]) if "stages" in data else None,
            config=File(**data["config"]) if "config" in data else None,
            unused=tuple(data["unused"]),
            tools=data["tools"],
            verified=data.get("verified"),
        )

    def save(self, package: Path, name: str = MANIFEST) -> None:
        write_json(package / name, self.to_json())

    @classmethod
    def load(cls, package: Path, name: str = MANIFEST) -> StageManifest:
        return checked_json(package, name, cls.from_json, PIPELINE_KIND)

    def check_ranks(self, package: Path, started: int) -> None:
        if started != len(self.ranks):
            raise RunError(
                f"{package} has stages for {len(self.ranks)} ranks, {started} were started; use `mpirun -np"
                f" {len(self.ranks)}` or --ranks {len(self.ranks)}"
            )


STAGE_MANIFEST = record(
    {
        KIND: one_of((PIPELINE_KIND,)),
        "model": TEXT,
        "architecture": TEXT,
        "ranks": many(RANK, RANKS),
        "tokenizer": FILES,
        "unused": many(TEXT, 1 << 20),
        "tools": mapping(TEXT, 4096),
    },
    {"stages": FILE, "config": FILE, "verified": mapping(number(1e30), 4096)},
)


def is_pipeline(package: Path) -> bool:
    """Whether stages lie there, whole or partitioned only; False where there is no package."""
    for name in (MANIFEST, PARTITION):
        if (package / name).is_file():
            try:
                return read_json(package / name, "").get(KIND) == PIPELINE_KIND
            except PackageError:
                return False
    return False
