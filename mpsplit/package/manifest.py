"""manifest.json: what a package holds, and the proof that it is whole.

In: a folder. Out: a Manifest, or what is wrong.

A package is a folder with manifest.json, the tokenizer's files and one folder a rank. The manifest
is written last, so a folder without one is not a package. It names no place, time or host: the same
input gives the same bytes. `mpsplit verify` adds what it found as `verified`, and changes nothing
else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mpsplit.errors import MpsplitError, PackageError
from mpsplit.package.agreement import Agreement
from mpsplit.package.collectives import Call
from mpsplit.package.manifest_fields import check_manifest
from mpsplit.package.sealed.keys import Key
from mpsplit.package.sealed.vault import Vault
from mpsplit.package.stages.built import NCNN
from mpsplit.package.together.package_commit import settle
from mpsplit.package.together.verified_files import read_sha256, remembered_sha256
from mpsplit.package.whole_files import json_text, read_json, write_json
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Plan

FORMAT_VERSION = 3
DECODER_KIND, PIPELINE_KIND = "a decoder", "stages"  # what a package can hold; the first is not written
MANIFEST = "manifest.json"
PARTITION = "partition.json"  # the manifest as `partition` leaves it, before there are files to run
# in rank-R/: the graph that any ncnn can run and the native engine's, and what C++ knows of the
# package, which names the files of weights
GRAPH, FUSED, RANK_TEXT = "model.param", "fused.param", "rank.txt"
CONFIG = "config.json"  # the model's own: another plan traces from it (`mpsplit repartition`)
FORM = "torchscript form"  # in `tools`: how the collectives stand in what was traced
WRITTEN = "none: its graphs were written"  # there, of a package that nothing was traced for
COMPILER = "compiler"  # in `tools`: what made the files of the ranks, where that was not ncnn's
TOKENIZER, TEMPLATE, SPECIAL = "tokenizer.json", "chat_template.jinja", "special_tokens.json"
RANK_FILES, TOKENIZER_FILES = (GRAPH, FUSED, RANK_TEXT), (TOKENIZER, TEMPLATE, SPECIAL)


@dataclass(frozen=True)
class Rope:
    """Rotary embedding as numbers: angle = position * inverse_frequency; cos and sin are scaled by
    `scaling`."""

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

    @classmethod
    def many_from_json(cls, entries: list[dict[str, Any]]) -> tuple[File, ...]:
        return tuple(cls(**entry) for entry in entries)


@dataclass(frozen=True)
class Seal:
    """How the files are encrypted. `package` is the package's id, `key` tells the key, `proof` is
    the manifest's own: with the key, nobody else's manifest passes for this one."""

    algorithm: str
    chunk: int
    package: str
    key: str
    proof: str = ""


@dataclass(frozen=True)
class RankPart:
    """What `partition` and `convert` say of one rank: its schedule, its weights in bytes of the
    checkpoint, its files."""

    schedule: tuple[Call, ...]
    weight_bytes: int
    files: tuple[File, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schedule": [call.to_json() for call in self.schedule],
            "weight_bytes": self.weight_bytes,
            "files": [vars(file) for file in self.files],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RankPart:
        schedule = tuple(map(Call.from_json, data["schedule"]))
        return cls(schedule, data["weight_bytes"], File.many_from_json(data["files"]))


class Listed:
    """What a manifest of either kind does with the files that it lists: those of its `ranks`, and
    those that all share."""

    ranks: tuple[RankPart, ...]

    @property
    def shared(self) -> tuple[File, ...]:
        """What belongs to no rank."""
        raise NotImplementedError

    @property
    def files(self) -> tuple[File, ...]:
        """All of them, each once: ranks may share some."""
        of_ranks = {file.path: file for part in self.ranks for file in part.files}
        return (*self.shared, *of_ranks.values())

    def check_files(self, package: Path, rank: int, *, hashes: bool = True, again: bool = False) -> None:
        """Every file of this rank and of what all share is there, of its size and, with `hashes`,
        of its content.

        Content that was found right before is not read `again` unless its file was touched since.
        """
        listed = (*self.shared, *self.ranks[rank].files)
        self._check_unlisted(package, rank, {file.path for file in listed})
        for file in listed:
            path = package / file.path
            if not path.resolve().is_relative_to(package.resolve()):
                raise PackageError(f"{path} leads out of the package, to {path.resolve()}; copy the file itself there")
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

    def _check_unlisted(self, package: Path, rank: int, listed: set[str]) -> None:
        """No file is there that an engine would read and nobody vouches for; opened.py sees to
        those of weights."""
        folder = rank_folder(package, rank)
        for path in (*(folder / name for name in RANK_FILES), *(package / name for name in TOKENIZER_FILES)):
            if path.relative_to(package).as_posix() not in listed and os.path.lexists(path):
                raise PackageError(f"{path} is not in the manifest; remove it or run `mpsplit convert {package}` again")


@dataclass(frozen=True)
class Manifest(Listed):
    """`repartitioned_from`: the `identity` of the package that its weights were taken from, where
    that was no checkpoint."""

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
    sealed: Seal | None = None
    config: File | None = None
    repartitioned_from: str | None = None

    @property
    def shared(self) -> tuple[File, ...]:
        """What belongs to no rank."""
        return (*self.tokenizer, *([self.config] if self.config else []))

    @property
    def identity(self) -> str:
        """The sha256 of manifest.json as it was before `mpsplit verify` added what it found."""
        return hashlib.sha256(json_text(replace(self, verified=None).to_json()).encode()).hexdigest()

    @property
    def compiler(self) -> str:
        return self.tools.get(COMPILER, NCNN)

    def demand_ncnn(self, package: Path) -> None:
        if self.compiler != NCNN:
            raise PackageError(
                f"{package} was compiled by {self.compiler.upper()}, and this reads ncnn's graphs; `mpsplit convert`"
                f" {package} without --compiler first"
            )

    def with_files(self, files: list[tuple[File, ...]], tools: dict[str, str]) -> Manifest:
        parts = tuple(replace(part, files=its_files) for part, its_files in zip(self.ranks, files, strict=True))
        return replace(self, ranks=parts, tools={**self.tools, **tools})

    def with_shared(self, made: dict[str, File]) -> Manifest:
        """With other files in the place of those that belong to no rank, by path."""
        tokenizer = tuple(made[file.path] for file in self.tokenizer)
        return replace(self, tokenizer=tokenizer, config=self.config and made[self.config.path])

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "facts": self.facts.to_json(),
            "plan": self.plan.to_json(),
            "rope": {"inverse_frequencies": list(self.rope.inverse_frequencies), "scaling": self.rope.scaling},
            "dtype": self.dtype,
            "eos": list(self.eos),
            "ranks": [part.to_json() for part in self.ranks],
            "tokenizer": [vars(file) for file in self.tokenizer],
            "unused": list(self.unused),
            "tools": dict(sorted(self.tools.items())),
            **({"verified": self.verified.to_json()} if self.verified else {}),
            **({"sealed": asdict(self.sealed)} if self.sealed else {}),
            **({"config": vars(self.config)} if self.config else {}),
            **({"repartitioned_from": self.repartitioned_from} if self.repartitioned_from else {}),
        }

    @classmethod
    def of_a_rank(cls, data: dict[str, Any]) -> Manifest:
        """As another rank sent it."""
        check_manifest(data)
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Manifest:
        return cls(
            model=data["model"],
            facts=ModelFacts(**data["facts"]),
            plan=Plan.from_json(data["plan"]),
            rope=Rope(tuple(data["rope"]["inverse_frequencies"]), data["rope"]["scaling"]),
            dtype=data["dtype"],
            eos=tuple(data["eos"]),
            ranks=tuple(map(RankPart.from_json, data["ranks"])),
            tokenizer=File.many_from_json(data["tokenizer"]),
            unused=tuple(data["unused"]),
            tools=data["tools"],
            verified=Agreement.from_json(data["verified"]) if "verified" in data else None,
            sealed=Seal(**data["sealed"]) if "sealed" in data else None,
            config=File(**data["config"]) if "config" in data else None,
            repartitioned_from=data.get("repartitioned_from"),
        )

    def signed(self, vault: Vault) -> Manifest:
        """With the proof that who wrote it has the key; what is changed after that is
        signed again."""
        seal = Seal(vault.algorithm, vault.chunk, vault.package, vault.key.name)
        return replace(self, sealed=replace(seal, proof=_proof(replace(self, sealed=seal), vault)))

    def vault(self, package: Path, key: Key) -> Vault:
        """What opens the files, when this is the key and the manifest is as it was signed."""
        seal = self.sealed
        assert seal, f"{package} is not encrypted"
        if key.name != seal.key:
            raise PackageError(
                f"{package} was encrypted with another key: its key is {seal.key}, the given one {key.name}"
            )
        vault = Vault(key, seal.package, seal.algorithm, seal.chunk)
        if not hmac.compare_digest(_proof(replace(self, sealed=replace(seal, proof="")), vault), seal.proof):
            raise PackageError(
                f"{package / MANIFEST} was changed after it was encrypted; copy it again or encrypt again"
            )
        return vault

    def save(self, package: Path, name: str = MANIFEST) -> None:
        write_json(package / name, self.to_json())

    @classmethod
    def load(cls, package: Path, name: str = MANIFEST) -> Manifest:
        def read(data: dict[str, Any]) -> Manifest:
            check_manifest(data)
            manifest = cls.from_json(data)
            manifest.plan.check(manifest.facts)
            return manifest

        return checked_json(package, name, read)


T = TypeVar("T")


def checked_json(package: Path, name: str, read: Callable[[dict[str, Any]], T], kind: str = DECODER_KIND) -> T:
    """What `read` makes of a manifest of this kind and version that is there and not damaged."""
    if not package.is_dir():
        raise PackageError(f"there is no package at {package}; make one with `mpsplit partition MODEL --out {package}`")
    settle(package)
    step = "partition MODEL --out" if name == PARTITION else "convert"
    data = read_json(package / name, f"run `mpsplit {step} {package}` first")
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        remedy = "update mpsplit" if newer else "partition and convert again"
        raise PackageError(f"{package} has format version {version}, this mpsplit reads {FORMAT_VERSION}; {remedy}")
    if (found := data.get("kind", DECODER_KIND)) != kind:
        raise PackageError(f"{package} holds {found!a:.40}, and this command is for a package of {kind}")
    try:
        return read(data)
    except (KeyError, TypeError, ValueError, MpsplitError) as wrong:
        raise PackageError(f"{package / name} is damaged ({wrong}); run `mpsplit {step} {package}` again") from None


def _proof(manifest: Manifest, vault: Vault) -> str:
    text = json.dumps(manifest.to_json(), sort_keys=True).encode()
    return hmac.digest(vault.key.derive("manifest", bytes.fromhex(vault.package)), text, "sha256").hex()


def rank_folder(package: Path, rank: int) -> Path:
    return package / f"rank-{rank}"


def package_number(package: Path) -> int:
    """A number that differs where packages do, as extensions/rank/package_here.cpp counts it. What
    `verify` adds does not count: it may be done on one host of several."""
    number, counts = 0, True
    for line in (package / MANIFEST).read_bytes().split(b"\n"):
        if line.startswith((b' "', b"}")):  # what is on the top level
            counts = not line.startswith(b' "verified"')
        if counts:
            number = zlib.crc32(line.removesuffix(b","), number)
    return number
