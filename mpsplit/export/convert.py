"""`mpsplit convert`: every rank turns its trace into graphs and streams its weights beside them. In: a partition. Out: a package.

Invariant: what was there before stays whole until every rank has made all of its files; then they take their names, and
manifest.json is written last. Interrupted at any moment and started again, it does what is missing, and the bytes are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import ConvertError
from mpsplit.export import stream
from mpsplit.export.contents import Array, Source, contents
from mpsplit.export.graphs import Graphs, make_graphs
from mpsplit.export.origin import Origin, open_model
from mpsplit.export.pnnx import Pnnx
from mpsplit.export.schedule import check_schedules
from mpsplit.package.embedding import dtype_of
from mpsplit.package.files import beside, write_json
from mpsplit.package.manifest import (
    EMBED,
    FORM,
    FUSED,
    GRAPH,
    MANIFEST,
    PARTITION,
    QUANTISED,
    RANK_TEXT,
    WEIGHTS,
    File,
    Manifest,
    rank_folder,
)
from mpsplit.package.rank_text import rank_text
from mpsplit.package.recipe import Recipe
from mpsplit.package.verified import read_sha256
from mpsplit.plan.cuts import EMBEDDING, linears_of
from mpsplit.progress import bytes_bar, track

FILES = (GRAPH, FUSED, WEIGHTS, QUANTISED, EMBED, RANK_TEXT)
FLOAT = Recipe()
STAMP = "weights.json"  # which weight files are whole, and the key they were made under


@dataclass(frozen=True)
class Conversion:
    """`manifest` is None where there were no weights to convert; `read`: bytes of their source that each rank read."""

    manifest: Manifest | None
    read: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """What weights are read from. `identity`: its repr tells them from others. `package`: the identity of the package that they are
    moved from, `recipe` what it says of how they are stored; both None for a checkpoint."""

    source: Source
    identity: object
    package: str | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class Work:
    """One rank's weight files, by name; `key` stands for all that decides their bytes."""

    folder: Path
    key: str
    files: dict[str, list[Array]]

    @property
    def missing(self) -> int:
        """Bytes that are not on the disk yet."""
        if self.hashes() is not None:
            return 0
        return sum(stream.size_of(a) - stream.done_of(self.folder / n, self.key) for n, a in self.files.items())

    def hashes(self) -> dict[str, str] | None:
        """Of the files, when all of them are whole, whether they have their names already or not."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            stamp = json.loads((self.folder / STAMP).read_text(encoding="utf-8"))
            if stamp["key"] == self.key and all(read_sha256(self._newest(n)) == stamp["files"][n] for n in self.files):
                return stamp["files"]
        return None

    def _newest(self, name: str) -> Path:
        partial = stream.partial_path(self.folder / name, self.key)
        return partial if partial.exists() else self.folder / name

    def forget_others(self) -> None:
        """What an interrupted conversion of another kind left."""
        ours = {stream.partial_path(self.folder / name, self.key) for name in FILES}
        for name in FILES:
            for old in self.folder.glob(f".{name}.*.partial"):
                if old not in ours:
                    old.unlink()


def convert(
    package: Path,
    comm: Communicator,
    pnnx: Pnnx,
    recipe: Recipe = FLOAT,
    model: Path | None = None,
    weights: Weights | None = None,
) -> Conversion:
    """Converts the slice of this rank, or of all ranks when there is only this process. `model`: where the checkpoint is by now;
    `weights`: what is read in its place."""
    partition = Manifest.load(package, PARTITION)
    if partition.tools[FORM] != pnnx.form:
        raise ConvertError(
            f"{package} was partitioned with --form {partition.tools[FORM]}, this route of pnnx needs --form {pnnx.form}"
        )
    recipe.check(linears_of(partition.facts), partition.facts.hidden)
    weights = weights or _checkpoint(package, model)
    if weights:
        own = weights.source.type_of(EMBEDDING)
        dtype = dtype_of(recipe.embedding.block) if recipe.embedding else own
        partition = replace(partition, dtype=dtype, repartitioned_from=weights.package)
    mine = range(partition.plan.ranks) if comm.size == 1 else [comm.rank]
    graphs = {rank: make_graphs(partition, package, rank, pnnx, recipe) for rank in track(mine, "graphs")}
    schedules = _of_everybody(comm, {rank: made.schedule for rank, made in graphs.items()})
    check_schedules(partition.plan, schedules)
    texts = {rank: _texts(partition, rank, made) for rank, made in graphs.items()}
    if weights is None:
        for rank in mine:
            _write(rank_folder(package, rank), texts[rank])
        comm.exchange(None)
        return Conversion(None, (0,) * partition.plan.ranks)
    work = {rank: _work(partition, package, rank, graphs[rank], weights, recipe) for rank in mine}
    _check_space(package, comm, work.values())
    read = {rank: _stream(rank, work[rank], weights.source) for rank in mine}
    weights.source.close()
    comm.exchange(None)  # everybody has everything
    if comm.host_lead:
        (package / MANIFEST).unlink(missing_ok=True)
    comm.exchange(None)
    files = _of_everybody(comm, {rank: _put_in_place(package, work[rank], texts[rank]) for rank in mine})
    made_with = {name: version(name) for name in ("pnnx", "ncnn")} | {"recipe": weights.recipe or str(recipe)}
    manifest = partition.with_files(files, made_with)
    if comm.host_lead:
        manifest.save(package)
    return Conversion(manifest, tuple(_of_everybody(comm, read)))


def _checkpoint(package: Path, model: Path | None) -> Weights | None:
    """None where partition saw a config alone, and nobody says where the model is."""
    origin = Origin.load(package)
    if not (origin or model):
        return None
    checkpoint, origin = open_model(origin, model)
    return Weights(checkpoint, origin.files)


def _of_everybody(comm: Communicator, own: dict[int, object]) -> list:
    """What each rank has, in order."""
    found = {rank: value for shared in comm.exchange(own) for rank, value in shared.items()}
    return [found[rank] for rank in sorted(found)]


def _texts(partition: Manifest, rank: int, graphs: Graphs) -> dict[str, str]:
    return {GRAPH: str(graphs.param), FUSED: str(graphs.fused), RANK_TEXT: rank_text(partition, rank)}


def _work(partition: Manifest, package: Path, rank: int, graphs: Graphs, weights: Weights, recipe: Recipe) -> Work:
    shard = partition.plan.shards[rank]
    files = contents(graphs.param, shard, partition.facts, weights.source, recipe)
    decisive = (str(graphs.param), shard, partition.facts, weights.identity, recipe)
    return Work(rank_folder(package, rank), hashlib.sha256(repr(decisive).encode()).hexdigest()[:16], files)


def _check_space(package: Path, comm: Communicator, work: Iterable[Work]) -> None:
    here = platform.node()
    for each in work:
        each.forget_others()
    needs = comm.exchange((here, sum(each.missing for each in work)))
    needed, free = sum(size for host, size in needs if host == here), shutil.disk_usage(package).free
    if needed > free:
        raise ConvertError(
            f"the weights need {needed / 1e9:,.2f} GB more in {package.resolve()}, where {free / 1e9:,.2f} GB are free; "
            "make room there, or convert the model with fewer bits (--quant)"
        )


def _stream(rank: int, work: Work, source: Source) -> int:
    """Makes the rank's weight files whole, under their partial names; the bytes that it read."""
    before = source.bytes_read
    if work.hashes() is None:
        (work.folder / STAMP).unlink(missing_ok=True)
        total = sum(map(stream.size_of, work.files.values()))
        with bytes_bar(f"rank {rank}", total) as tell:
            for name, arrays in work.files.items():
                stream.write(work.folder / name, work.key, arrays, source, tell)
        made = {name: read_sha256(stream.partial_path(work.folder / name, work.key)) for name in work.files}
        write_json(work.folder / STAMP, {"key": work.key, "files": made})
    return source.bytes_read - before


def _put_in_place(package: Path, work: Work, texts: dict[str, str]) -> tuple[File, ...]:
    """The files take their names; what an earlier conversion left and this one has not goes."""
    known = json.loads((work.folder / STAMP).read_text(encoding="utf-8"))["files"]
    _write(work.folder, texts)
    for name in (WEIGHTS, QUANTISED, EMBED):
        partial = stream.partial_path(work.folder / name, work.key)
        if partial.exists():
            os.replace(partial, work.folder / name)
        elif name not in work.files:
            (work.folder / name).unlink(missing_ok=True)
    return tuple(
        File(path.relative_to(package).as_posix(), path.stat().st_size, known[name])
        if name in known
        else File.of(package, path)
        for name in FILES
        if (path := work.folder / name).is_file()
    )


def _write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        with beside(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
