"""Which model a partition was made of: where it is and what its files looked like.

In: a Checkpoint. Out: what partition.json keeps of it.

The manifest of a package names no place, so this stands in partition.json beside it. Invariant:
convert reads no weights of another model than the one that was partitioned; where it was moved to,
the headers of its files tell.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import ModelError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.model_source import header
from mpsplit.package.manifest import PARTITION
from mpsplit.package.whole_files import read_json

KEY = "origin"


@dataclass(frozen=True)
class File:
    """`header`: the hash of a safetensors file's names, types, shapes and places; "" of other
    files."""

    name: str
    size: int
    mtime_ns: int
    header: str

    @classmethod
    def of(cls, path: Path) -> File:
        found, shown = path.stat(), ""
        if path.suffix == ".safetensors":
            with open(path, "rb") as file:
                shown = hashlib.sha256(file.read(header(path)[0])).hexdigest()
        return cls(path.name, found.st_size, found.st_mtime_ns, shown)

    @property
    def content(self) -> tuple[str, int, str]:
        return self.name, self.size, self.header


@dataclass(frozen=True)
class Origin:
    folder: Path
    files: tuple[File, ...]

    @classmethod
    def of(cls, folder: Path, checkpoint: Checkpoint) -> Origin:
        return cls(folder.resolve(), tuple(File.of(path) for path in checkpoint.files))

    def to_json(self) -> dict:
        return {"folder": str(self.folder), "files": [vars(file) for file in self.files]}

    @classmethod
    def load(cls, package: Path) -> Origin | None:
        """None where partition saw a config alone."""
        told = read_json(package / PARTITION, f"run `mpsplit partition MODEL --out {package}` first").get(KEY)
        return told and cls(Path(told["folder"]), tuple(File(**file) for file in told["files"]))


def open_model(origin: Origin | None, moved: Path | None) -> tuple[Checkpoint, Origin]:
    """The checkpoint that was partitioned, or its copy in `moved`, when it still is what it was."""
    folder = moved or origin.folder
    if not folder.is_dir():
        raise ModelError(f"the model is no longer at {folder}; say where it is with --model DIR")
    checkpoint = Checkpoint(folder)
    found = Origin.of(folder, checkpoint)
    if origin and [file.content for file in found.files] != [file.content for file in origin.files]:
        names = {file.name for file in {*found.files} ^ {*origin.files}}
        raise ModelError(
            f"{folder} is not the model that was partitioned: {len(names)} of its files differ "
            f"({', '.join(sorted(names)[:3])}); give that one with --model DIR, or partition again"
        )
    if origin and not moved and found != origin:
        changed = next(now.name for now, then in zip(found.files, origin.files, strict=True) if now != then)
        raise ModelError(
            f"{folder / changed} was written to since it was partitioned; partition again, or vouch for it with --model"
            f" {folder}"
        )
    return checkpoint, found
