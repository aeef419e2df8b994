"""A rank's weight files, by content.

In: WeightFiles to be, their source. Out: the files, whole, under names that say what is in them.

A plain file is called by its address (weight_stream.py), a sealed one by chance.
rank-R/weights/index.json knows the whole ones by two keys. One is had without reading: the outline,
and what the source's files look like from outside. The other is the address.

Invariant: a file that has its name never changes. So what is whole is neither read nor written
again, whoever else names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from mpsplit.export.model.model_origin import Origin
from mpsplit.export.weights import weight_stream
from mpsplit.export.weights.weight_contents import WeightFile
from mpsplit.export.weights.weight_source import Source
from mpsplit.package.manifest import File, rank_folder
from mpsplit.package.sealed.vault import Vault
from mpsplit.package.stored.float_weights import Create
from mpsplit.package.stored.weight_files import FOLDER, NAME, WeightFiles
from mpsplit.package.together.verified_files import read_sha256, remembered_sha256
from mpsplit.package.whole_files import synced, write_json

INDEX = "index.json"


@dataclass(frozen=True)
class Entry:
    """A whole file: `name` in the rank's folder, `size` and `sha256` of its bytes on disk."""

    outline: str
    address: str
    name: str
    size: int
    sha256: str

    def has_size(self, folder: Path) -> bool:
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size

    def is_whole(self, folder: Path) -> bool:
        path = folder / self.name
        return self.has_size(folder) and self.sha256 == (remembered_sha256(path) or read_sha256(path))


@dataclass(frozen=True)
class Index:
    """Entries by key. `seal`: the package's id and the name of its key where files are sealed, else
    empty."""

    seal: tuple[str, ...]
    entries: dict[str, Entry]

    @classmethod
    def load(cls, folder: Path) -> Index:
        """What cannot be read is not known."""
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            index = json.loads((folder / FOLDER / INDEX).read_text(encoding="utf-8"))
            entries = {key: Entry(**entry) for key, entry in index["files"].items()}
            if all(NAME.fullmatch(entry.name) for entry in entries.values()):
                return cls(tuple(index["seal"]), entries)
        return cls((), {})

    def save(self, folder: Path) -> None:
        files = {key: vars(entry) for key, entry in self.entries.items()}
        write_json(folder / FOLDER / INDEX, {"seal": self.seal, "files": files})


class Store:
    """Of one rank. `vault` seals what is made; `others`: of ranks of another package to take files
    from, by their folders."""

    def __init__(
        self,
        package: Path,
        rank: int,
        files: Sequence[WeightFile],
        source: Source,
        origin: Origin,
        vault: Vault | None = None,
        others: Mapping[Path, Index] = MappingProxyType({}),
    ):
        self.package, self.rank, self.folder = package, rank, rank_folder(package, rank)
        self.source, self.vault = source, vault
        self.salt = vault.key.derive("address") if vault else b""
        self.files = {key_of(file, source, origin): file for file in files}
        self.seal = (vault.package, vault.key.name) if vault else ()
        known = {self.folder: Index.load(self.folder), **others}
        self.known = {folder: index.entries for folder, index in known.items() if index.seal == self.seal}
        self.entries = self.known.setdefault(self.folder, {})
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        for unfinished in (self.folder / FOLDER).glob(".*.partial"):
            if vault or unfinished not in map(self._partial, self.files):
                unfinished.unlink()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to make."""
        return all(key in self.entries and self.entries[key].is_whole(self.folder) for key in self.files)

    @property
    def missing(self) -> int:
        """Bytes that have to be written, as far as can be told without reading."""
        return sum(
            file.size - weight_stream.done_of(self._partial(key))
            for key, file in self.files.items()
            if not any(entry.has_size(folder) for folder, entry in self._alike(key, file))
        )

    def fill(self, tell: weight_stream.Tell) -> None:
        """Makes whole what is not there."""
        for key, file in self.files.items():
            self.entries[key] = self._find(key, file) or self._make(key, file, tell)
            Index(self.seal, self.entries).save(self.folder)

    @property
    def weight_files(self) -> WeightFiles:
        _, floats = self._named("floats")[0]
        embedding = next((name for _, name in self._named("embedding")), None)
        return WeightFiles(floats, embedding, tuple(self._named("packed")))

    def _named(self, role: str) -> list[tuple[int, str]]:
        """Offset and name of each file that has this role."""
        return [(file.offset, self.entries[key].name) for key, file in self.files.items() if file.role == role]

    @property
    def listed(self) -> tuple[File, ...]:
        """For the manifest: each once."""
        entries = {self.entries[key].name: self.entries[key] for key in self.files}
        folder = self.folder.relative_to(self.package)
        return tuple(File((folder / name).as_posix(), entry.size, entry.sha256) for name, entry in entries.items())

    def forget_others(self) -> None:
        """What this conversion does not name goes."""
        self.entries = {key: self.entries[key] for key in self.files}
        Index(self.seal, self.entries).save(self.folder)
        kept = {INDEX, *(Path(entry.name).name for entry in self.entries.values())}
        for path in (self.folder / FOLDER).iterdir():
            if path.name not in kept:
                path.unlink()

    def _alike(self, key: str, file: WeightFile) -> Iterator[tuple[Path, Entry]]:
        """Entries that may be this file's, the surest first."""
        for folder, entries in self.known.items():
            if key in entries:
                yield folder, entries[key]
        for folder, entries in self.known.items():
            yield from ((folder, entry) for entry in entries.values() if entry.outline == file.outline)

    def _find(self, key: str, file: WeightFile) -> Entry | None:
        """The file where it is whole already. Only where the source's files look new are its slices
        read, to see whether they are."""
        address = None
        for folder, entry in self._alike(key, file):
            if not entry.is_whole(folder):
                continue
            if self.known[folder].get(key) != entry:
                address = address or weight_stream.address_of(file.arrays, self.source, self.salt)
                if entry.address != address:
                    continue
            if folder != self.folder:
                self._share(folder / entry.name, self.folder / entry.name)
            return entry
        return None

    def _share(self, source: Path, target: Path) -> None:
        """One copy on the disk, where both are on the same one."""
        copy = target.with_name(f".{target.name}.partial")
        copy.unlink(missing_ok=True)
        try:
            os.link(source, copy)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, copy)
        os.replace(copy, target)
        copy.unlink(missing_ok=True)  # of two links to one file, replace keeps both

    def _make(self, key: str, file: WeightFile, tell: weight_stream.Tell) -> Entry:
        unfinished, name = self._partial(key), ""
        create: Create | None = None
        if self.vault:  # who seals a file must know its name, and the address is known at its end
            name = f"{FOLDER}/{secrets.token_hex(16)}.bin"
            create = partial(self.vault.create, name=f"{self.folder.name}/{name}")
        address = weight_stream.write(unfinished, file.arrays, self.source, tell, create, self.salt)
        name = name or f"{FOLDER}/{address}.bin"
        path = self.folder / name
        synced(unfinished)
        os.replace(unfinished, path)
        return Entry(file.outline, address, name, path.stat().st_size, read_sha256(path))

    def _partial(self, key: str) -> Path:
        return self.folder / FOLDER / f".{key}.partial"


def key_of(file: WeightFile, source: Source, origin: Origin) -> str:
    """What tells a file without a look into the source."""
    looks = {file.name: file for file in origin.files}
    names = sorted({source.file_of(array.name) for array in file.arrays})
    return hashlib.sha256(repr((file.outline, [looks[name] for name in names])).encode()).hexdigest()[:32]
