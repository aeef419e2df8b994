"""A new package in the place of an old one, at one moment.

In: a package's folder, and beside what is used of it .next/, with what is new. Out: the package
made new.

What a partition or a conversion makes lies in .next/, synced to the disk, until every rank has
everything. Then .next/ is renamed .committed/ on each host: that is the commit. What lies in there
then moves to its place file by file, the manifest last, and whoever is killed while it moves leaves
the rest to the next who opens the package. Weight files need none of it: they are called by their
content, lie in their place from the beginning, and go when no manifest names them.

Invariant: before the rename the old package is whole, after it the new one is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpsplit.errors import PackageError
from mpsplit.package.whole_files import synced

NEXT, COMMITTED = ".next", ".committed"
# a partition in .next/ is whole when this is there; the manifest is what readers believe
PARTITION, MANIFEST = "partition.json", "manifest.json"
CLEARED = ".cleared"  # what the new partition replaces has gone
# of a partition, beside its ranks (manifest.py, placed_plan.py and stages/pipeline.py name them)
TEXTS = ("tokenizer.json", "chat_template.jinja", "special_tokens.json")
BESIDE_RANKS = (*TEXTS, "config.json", "plan.json", "stages.json")
WEIGHTS = "weights"


def partition_home(package: Path) -> Path:
    """Where the partition lies that is to be converted next: the package, or its .next/."""
    settle(package)
    return package / NEXT if (package / NEXT / PARTITION).is_file() else package


def sync_below(folder: Path) -> None:
    """Every file and every folder; what another rank is just making, that one syncs."""
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            synced(path)


def commit(package: Path) -> None:
    """Once per host, when all ranks have said that what is theirs is synced. With hosts that share
    the folder, the first does it."""
    with suppress(FileNotFoundError):
        os.rename(package / NEXT, package / COMMITTED)
        synced(package)
    settle(package)


def settle(package: Path) -> None:
    """Finishes a commit that was interrupted; nothing where none was."""
    if not (package / COMMITTED).is_dir():
        return
    try:
        with _alone(package / COMMITTED) as committed:
            if committed:
                _move(committed, package)
    except OSError as wrong:
        raise PackageError(
            f"{package} was converted, and what is new could not be put in its place ({wrong.strerror}); let mpsplit"
            " write there once"
        ) from None


@contextmanager
def _alone(folder: Path) -> Iterator[Path | None]:
    """None where another was faster."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder if folder.is_dir() else None
    finally:
        os.close(descriptor)


def _move(committed: Path, package: Path) -> None:
    if not (committed / CLEARED).exists():
        _clear(committed, package)
        (committed / CLEARED).touch()
    for source in sorted(committed.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
        if source.name == CLEARED:
            continue
        if source.is_dir():
            folder = package / source.name
            folder.mkdir(exist_ok=True)
            for inner in source.iterdir():
                _replace(inner, folder / inner.name)
            synced(folder)
        else:
            _replace(source, package / source.name)
    synced(package)
    shutil.rmtree(committed)
    synced(package)


def _clear(committed: Path, package: Path) -> None:
    """A new partition takes the place of all that an old one made, but for weights."""
    if not (committed / PARTITION).is_file():
        return
    for name in BESIDE_RANKS:
        (package / name).unlink(missing_ok=True)
    for folder in committed.glob("rank-*"):
        for path in (package / folder.name).glob("*"):
            if path.name != WEIGHTS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(source, target)


def forget_unfinished_partition(package: Path) -> None:
    """What is in .next/ without a partition belongs to a command that died."""
    if not (package / NEXT / PARTITION).is_file():
        shutil.rmtree(package / NEXT, ignore_errors=True)


def forget_other_ranks(package: Path, ranks: int) -> None:
    """Folders of a larger plan that was there before."""
    current = {f"rank-{rank}" for rank in range(ranks)}
    for old in package.glob("rank-*"):
        if old.name not in current:
            shutil.rmtree(old, ignore_errors=True)
