"""`mpsplit encrypt` and `decrypt`: a package sealed, and back.

In: a package, a key, a folder that is not there yet. Out: that folder.

Invariant: the package that was given is only read, and `out` is whole or not there. The manifest
and plan.json stay readable, nothing that the manifest does not list goes along: no slices of the
checkpoint, no traces of the conversion.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.manifest import File, Manifest
from mpsplit.package.sealed.keys import Key
from mpsplit.package.sealed.vault import Vault, sealed_size
from mpsplit.package.stored.float_weights import Written
from mpsplit.package.together.package_commit import sync_below
from mpsplit.package.together.package_lock import PREFIX, held
from mpsplit.package.whole_files import sha256, synced
from mpsplit.plan.placed_plan import PLAN

PIECE = 8 << 20
SPARE = 1 << 20  # bytes beside the files: the manifest, folders

Copy = Callable[[Path, Path, File], None]  # from, to, and which file of the package it is


def encrypt(package: Path, out: Path, key: Key) -> Manifest:
    manifest = Manifest.load(package)
    manifest.demand_ncnn(package)
    if manifest.sealed:
        raise PackageError(f"{package} is encrypted already; decrypt it first to give it another key")
    vault = Vault.new(key)

    def seal(source: Path, target: Path, file: File) -> None:
        with open(source, "rb") as plain, vault.create(target, file.path) as sealed:
            _pour(iter(lambda: plain.read(PIECE), b""), sealed)

    size = sum(sealed_size(file.size, vault.chunk) for file in manifest.files)
    with _new_folder(package, out, size) as partial:
        _check(manifest, package)
        copied = _copied(manifest, package, partial, seal).signed(vault)
        copied.save(partial)
    return copied


def decrypt(package: Path, out: Path, key: Key) -> Manifest:
    manifest = Manifest.load(package)
    if not manifest.sealed:
        raise PackageError(f"{package} is not encrypted; it can be run as it is")
    vault = manifest.vault(package, key)

    def unseal(source: Path, target: Path, file: File) -> None:
        with vault.open(source, file.path) as sealed, open(target, "wb") as plain:
            _pour(sealed.pieces(), plain)

    with _new_folder(package, out, sum(file.size for file in manifest.files)) as partial:
        _check(manifest, package)
        copied = replace(_copied(manifest, package, partial, unseal), sealed=None)
        copied.save(partial)
    return copied


def _pour(pieces: Iterator[bytes], to: Written) -> None:
    for piece in pieces:
        to.write(piece)


def _check(manifest: Manifest, package: Path) -> None:
    for rank in range(manifest.plan.ranks):
        manifest.check_files(package, rank)


def _copied(manifest: Manifest, package: Path, out: Path, copy: Copy) -> Manifest:
    """The manifest of the files as `copy` made them."""
    done: dict[str, File] = {}
    for file in manifest.files:
        target = out / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(package / file.path, target, file)
        done[file.path] = File(file.path, target.stat().st_size, sha256(target))
    if (package / PLAN).is_file():
        shutil.copyfile(package / PLAN, out / PLAN)
    ranks = tuple(replace(part, files=tuple(done[file.path] for file in part.files)) for part in manifest.ranks)
    return replace(manifest.with_shared(done), ranks=ranks)


@contextmanager
def _new_folder(package: Path, out: Path, size: int) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and vanishes when it does not."""
    out = out.absolute()
    if os.path.lexists(out):
        raise PackageError(
            f"{out} is there already; give --out a folder that is not (a package is never changed in place)"
        )
    if not out.parent.is_dir():
        raise PackageError(f"there is no folder {out.parent}; make it, or give --out another one")
    if out.is_relative_to(package.resolve()) or out.parent.resolve().is_relative_to(package.resolve()):
        raise PackageError(f"{out} lies in the package {package}; give --out a folder beside it")
    if (free := shutil.disk_usage(out.parent).free) < size + SPARE:
        raise PackageError(f"{out} takes {size + SPARE:,} bytes, {out.parent} has room for {free:,}; make room there")
    partial = out.with_name(f".{out.name}.partial")
    with held(package, "read"):
        try:
            partial.mkdir(exist_ok=True)
            with held(partial, "written", writes=True):
                _empty(partial)  # of a command that died
                try:
                    yield partial
                    sync_below(partial)
                    os.rename(partial, out)
                    synced(out.parent)
                except BaseException:
                    _empty(partial)
                    raise
        except OSError as wrong:
            raise PackageError(
                f"{out} cannot be written ({wrong.strerror}); make room or give --out another folder"
            ) from None
        finally:
            with suppress(OSError):  # it has its name, or another command is at it
                partial.rmdir()


def _empty(folder: Path) -> None:
    """But for the file that says whose it is."""
    for path in folder.iterdir():
        if not path.name.startswith(PREFIX):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
