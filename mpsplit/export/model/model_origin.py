"""Which model a partition was made of: where it is and what its files looked like.

In: a Checkpoint. Out: what partition.json keeps of it: the manifest of a package names no place.

Invariant: convert reads no weights of another model than the one that was partitioned. Where it was
moved, the headers of its files tell whether it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import ModelError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.model.gguf.gguf_header import header_bytes
from mpsplit.export.model.model_source import find_model, header
from mpsplit.families.family import GGUF
from mpsplit.package.manifest import PARTITION
from mpsplit.package.whole_files import read_json

KEY = "origin"
HEADERS = {  # how many bytes of a file say what is in it
    ".safetensors": lambda path: header(path)[0],
    GGUF: header_bytes,
}


@dataclass(frozen=True)
class File:
    """`header`: the hash of what a GGUF or safetensors file says of its tensors; "" of others."""

    name: str
    size: int
    mtime_ns: int
    header: str

    @classmethod
    def of(cls, path: Path) -> File:
        status, header_hash = path.stat(), ""
        if (header_of := HEADERS.get(path.suffix)) is not None:
            with open(path, "rb") as file:
                header_hash = hashlib.sha256(file.read(header_of(path))).hexdigest()
        return cls(path.name, status.st_size, status.st_mtime_ns, header_hash)

    @property
    def content(self) -> tuple[str, int, str]:
        return self.name, self.size, self.header


@dataclass(frozen=True)
class Origin:
    """`place`: a folder, or a GGUF file."""

    place: Path
    files: tuple[File, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Origin:
        return cls(checkpoint.place.resolve(), tuple(File.of(path) for path in checkpoint.files))

    @property
    def folder(self) -> Path:
        """With the files that are beside the weights."""
        return find_model(str(self.place))

    def to_json(self) -> dict:
        return {"folder": str(self.place), "files": [vars(file) for file in self.files]}

    @classmethod
    def load(cls, package: Path) -> Origin | None:
        """None where partition saw a config alone."""
        data = read_json(package / PARTITION, f"run `mpsplit partition MODEL --out {package}` first").get(KEY)
        return cls(Path(data["folder"]), tuple(File(**file) for file in data["files"])) if data else None


def open_model(origin: Origin | None, moved: Path | None) -> tuple[Checkpoint, Origin]:
    """The checkpoint that was partitioned, or its copy in `moved`, when it still is what it was.

    One of the two is given: a partition of a config alone has no origin.
    """
    place = moved or (origin.place if origin else None)
    assert place, "neither an origin nor a place"
    if not place.exists():
        raise ModelError(f"the model is no longer at {place}; say where it is with --model DIR")
    checkpoint = checkpoint_of(find_model(str(place)))
    here = Origin.of(checkpoint)
    if origin and [file.content for file in here.files] != [file.content for file in origin.files]:
        names = {file.name for file in {*here.files} ^ {*origin.files}}
        raise ModelError(
            f"{place} is not the model that was partitioned: {len(names)} of its files differ "
            f"({', '.join(sorted(names)[:3])}); give that one with --model DIR, or partition again"
        )
    if origin and not moved and here != origin:
        pairs = zip(checkpoint.files, here.files, origin.files, strict=True)
        changed = next(path for path, now, then in pairs if now != then)
        raise ModelError(
            f"{changed} was written to since it was partitioned; partition again, or vouch for it with --model {place}"
        )
    return checkpoint, here
