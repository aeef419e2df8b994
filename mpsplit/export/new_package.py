"""A package that is being made, until it is whole: what partitions of both kinds have in common.

In: where it will be, the ranks. Out: the right to fill .next/ of it, and then its place.

Where no whole package is, what was made is put in its place at once; a whole one stays what it is
until `convert` has made the new one whole.

Invariant: a failed run leaves nothing behind.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpsplit.comm import Communicator
from mpsplit.errors import ModelError
from mpsplit.export.unfinished_folders import forget_ranks
from mpsplit.package.manifest import CONFIG, MANIFEST, PARTITION, File, RankPart
from mpsplit.package.manifest_fields import RANK, TEXT
from mpsplit.package.together.exchanged import by_rank, exchanged, plain
from mpsplit.package.together.package_commit import COMMITTED, NEXT, commit, forget_other_ranks, settle, sync_below
from mpsplit.package.together.package_lock import PREFIX, held_together


@contextmanager
def new_package(
    out: Path, comm: Communicator, ranks: int, force: bool, at_once: bool = False
) -> Iterator[Sequence[int]]:
    """The block fills .next/ of the package; it is given the ranks that this process makes: its
    own, or all when there is only this process. `force`: also over a package that is whole, which
    it replaces when it ends, if `at_once`: nothing is left to convert then."""
    _check_out(out)
    with _none_where_it_fails(out), held_together(out, "partitioned", comm):
        is_whole = _is_whole(out, comm, force)
        mine = range(ranks) if comm.size == 1 else [comm.rank]
        with _all_or_nothing(out, mine):
            yield mine
            sync_below(out / NEXT)
            comm.exchange(None)
        if comm.host_lead and (at_once or not is_whole):
            commit(out)
            forget_other_ranks(out, ranks)
        comm.exchange(None)


def parts_of_all(comm: Communicator, mine: Mapping[int, RankPart]) -> list[RankPart]:
    return by_rank(comm, {rank: part.to_json() for rank, part in mine.items()}, _part_of_a_rank)


def copy_config(folder: Path, out: Path) -> File:
    return File.of(out, Path(shutil.copyfile(folder / CONFIG, out / CONFIG)))


def _part_of_a_rank(data: dict[str, Any]) -> RankPart:
    RANK(data, "it")
    return RankPart.from_json(data)


def _is_whole(out: Path, comm: Communicator, force: bool) -> bool:
    """Whether any host has a whole package there, which only `force` replaces. What died there
    goes."""
    whole = ""
    if comm.host_lead:
        settle(out)
        shutil.rmtree(out / NEXT, ignore_errors=True)
        if (out / MANIFEST).is_file():
            made = time.strftime("%Y-%m-%d %H:%M", time.localtime((out / MANIFEST).stat().st_mtime))
            whole = f"a whole package of {len(list(out.glob('rank-*')))} ranks, made on {made}"
    found = list(filter(None, exchanged(comm, whole, plain(TEXT))))
    if found and not force:
        raise ModelError(f"{out} is {found[0]}; give another --out, or --force to replace it")
    return bool(found)


@contextmanager
def _none_where_it_fails(out: Path) -> Iterator[None]:
    """Makes the folder; what fails in it and leaves nothing takes the folder with it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # it holds something
            out.rmdir()
        raise


@contextmanager
def _all_or_nothing(out: Path, ranks: Iterable[int]) -> Iterator[None]:
    """Whatever ends the block early, an error here or of another rank, takes the half-written
    folders with it."""
    try:
        yield
    except BaseException:
        forget_ranks(out, ranks)
        raise


def _check_out(out: Path) -> None:
    """Only an empty place or an earlier partition may be written over."""
    if out.exists() and not out.is_dir():
        raise ModelError(f"--out {out} is a file; name a directory")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    ours = {name for name in names if name in (NEXT, COMMITTED) or name.startswith(("rank-", PREFIX))}
    if names - ours and not ours & names and not names & {MANIFEST, PARTITION}:
        raise ModelError(f"--out {out} holds other files; name a new directory or an earlier package")
