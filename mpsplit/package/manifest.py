"""manifest.json: what a package holds, and the proof that it is whole. In: a folder. Out: a Manifest, or what is wrong.

A package is a folder with manifest.json, the tokenizer's files and one folder a rank. The manifest is written last, so a folder
without one is not a package. It names no place, time or host: the same input gives the same bytes. `mpsplit verify` adds what it found
as `verified`, and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.agreement import Agreement
from mpsplit.package.collectives import Call
from mpsplit.package.files import read_json, write_json
from mpsplit.package.verified import read_sha256, remembered_sha256
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Plan

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
PARTITION = "partition.json"  # the manifest as `partition` leaves it, before there are files to run
# in rank-R/: the graph that any ncnn can run and the native engine's, their weights, and what C++ knows of the package
GRAPH, FUSED, WEIGHTS, QUANTISED = "model.param", "fused.param", "model.bin", "quantised.bin"
EMBED, RANK_TEXT = "embed.bin", "rank.txt"
FORM = "torchscript form"  # in `tools`: how the collectives stand in what was traced
TOKENIZER, TEMPLATE, SPECIAL = "tokenizer.json", "chat_template.jinja", "special_tokens.json"


@dataclass(frozen=True)
class Rope:
    """Rotary embedding as numbers: angle = position * inverse_frequency; cos and sin are scaled by `scaling`."""

    inverse_frequencies: tuple[float, ...]
    scaling: float


@dataclass(frozen=True)
class File:
    """Path relative to the package, size in bytes."""

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, package: Path, path: Path) -> File:
        return cls(path.relative_to(package).as_posix(), path.stat().st_size, read_sha256(path))


@dataclass(frozen=True)
class RankPart:
    """What `partition` and `convert` say of one rank: its schedule, its weights in bytes of the checkpoint, its files."""

    schedule: tuple[Call, ...]
    weight_bytes: int
    files: tuple[File, ...] = ()


@dataclass(frozen=True)
class Manifest:
    model: str
    facts: ModelFacts
    plan: Plan
    rope: Rope
    dtype: str
    eos: tuple[int, ...]
    ranks: tuple[RankPart, ...]
    tokenizer: tuple[File, ...]
    unused: tuple[str, ...]
    tools: dict[str, str]
    verified: Agreement | None = None

    def with_files(self, files: list[tuple[File, ...]], tools: dict[str, str]) -> Manifest:
        parts = tuple(replace(part, files=own) for part, own in zip(self.ranks, files, strict=True))
        return replace(self, ranks=parts, tools={**self.tools, **tools})

    def to_json(self) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "facts": self.facts.to_json(),
            "plan": self.plan.to_json(),
            "rope": {"inverse_frequencies": list(self.rope.inverse_frequencies), "scaling": self.rope.scaling},
            "dtype": self.dtype,
            "eos": list(self.eos),
            "ranks": [
                {
                    "schedule": [call.to_json() for call in part.schedule],
                    "weight_bytes": part.weight_bytes,
                    "files": [vars(file) for file in part.files],
                }
                for part in self.ranks
            ],
            "tokenizer": [vars(file) for file in self.tokenizer],
            "unused": list(self.unused),
            "tools": dict(sorted(self.tools.items())),
            **({"verified": self.verified.to_json()} if self.verified else {}),
        }

    @classmethod
    def from_json(cls, data: dict) -> Manifest:
        files = lambda entries: tuple(File(**entry) for entry in entries)  # noqa: E731
        return cls(
            model=data["model"],
            facts=ModelFacts(**data["facts"]),
            plan=Plan.from_json(data["plan"]),
            rope=Rope(tuple(data["rope"]["inverse_frequencies"]), data["rope"]["scaling"]),
            dtype=data["dtype"],
            eos=tuple(data["eos"]),
            ranks=tuple(
                RankPart(tuple(map(Call.from_json, part["schedule"])), part["weight_bytes"], files(part["files"]))
                for part in data["ranks"]
            ),
            tokenizer=files(data["tokenizer"]),
            unused=tuple(data["unused"]),
            tools=data["tools"],
            verified=Agreement.from_json(data["verified"]) if "verified" in data else None,
        )

    def save(self, package: Path, name: str = MANIFEST) -> None:
        write_json(package / name, self.to_json())

    @classmethod
    def load(cls, package: Path, name: str = MANIFEST) -> Manifest:
        if not package.is_dir():
            raise PackageError(
                f"there is no package at {package}; make one with `mpsplit partition MODEL --out {package}`"
            )
        step = "partition MODEL --out" if name == PARTITION else "convert"
        data = read_json(package / name, f"run `mpsplit {step} {package}` first")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            remedy = "update mpsplit" if newer else "partition and convert again"
            raise PackageError(f"{package} has format version {version}, this mpsplit reads {FORMAT_VERSION}; {remedy}")
        try:
            return cls.from_json(data)
        except (KeyError, TypeError) as wrong:
            raise PackageError(f"{package / name} is damaged ({wrong}); run `mpsplit {step} {package}` again") from None

    def check_files(self, package: Path, rank: int, *, hashes: bool = True, again: bool = False) -> None:
        """Every file of this rank and the tokenizer is there, of its size and, with `hashes`, of its content.

        Content that was found right before is not read `again` unless its file was touched since.
        """
        for file in (*self.tokenizer, *self.ranks[rank].files):
            path = package / file.path
            if not path.is_file():
                raise PackageError(
                    f"{path} is missing ({file.size} bytes); copy it again or run `mpsplit convert {package}`"
                )
            size = path.stat().st_size
            if size != file.size:
                raise PackageError(
                    f"{path} has {size} bytes, the manifest says {file.size}; copy it again or convert again"
                )
            known = not again and remembered_sha256(path) == file.sha256
            if hashes and not known and read_sha256(path) != file.sha256:
                raise PackageError(
                    f"{path} was changed: its sha256 differs from the manifest's; copy it again or convert again"
                )


def rank_folder(package: Path, rank: int) -> Path:
    return package / f"rank-{rank}"
