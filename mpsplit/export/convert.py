"""`mpsplit convert`: every rank turns its trace into graphs and streams its weights beside them.

In: a partition. Out: a package.

Invariant: what was there before stays whole until every rank has all of its weights, under names
that say what is in them, and its texts in .next/. Then these take their places, at one moment
(package_commit.py). Interrupted at any moment and started again, it does what is missing, and
the bytes are the same. With a key, no plain byte of what is made touches the disk.
"""

from __future__ import annotations

import errno
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsplit.comm import Communicator
from mpsplit.errors import ConvertError
from mpsplit.export.graph.collective_schedule import check_schedules
from mpsplit.export.graph.pnnx import Pnnx
from mpsplit.export.graph.rank_graphs import Graphs, make_graphs
from mpsplit.export.model.model_origin import Origin
from mpsplit.export.package_texts import Texts, commit, listed, rank_texts, shared_texts, texts_beside
from mpsplit.export.weights.conversion_weights import Weights, of_checkpoint
from mpsplit.export.weights.encode import Verdict
from mpsplit.export.weights.weight_contents import contents
from mpsplit.export.weights.weight_source import Source
from mpsplit.export.weights.weight_store import Index, Store
from mpsplit.package.collectives import Call
from mpsplit.package.json_fields import flag, record, text, whole
from mpsplit.package.manifest import FORM, PARTITION, File, Manifest, rank_folder
from mpsplit.package.manifest_fields import BYTES, FILES, PACKAGE_ID, SCHEDULE
from mpsplit.package.sealed.keys import Key
from mpsplit.package.sealed.vault import Vault
from mpsplit.package.stored.parts_json import forget_parts
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.exchanged import by_rank, exchanged, of_rank_0, plain
from mpsplit.package.together.package_commit import forget_other_ranks, forget_unfinished_partition, partition_home
from mpsplit.package.together.package_lock import held, held_together
from mpsplit.package.whole_files import forget_unfinished
from mpsplit.plan.cuts import linears_of
from mpsplit.progress import bytes_bar, track

if TYPE_CHECKING:  # it needs torch, which a conversion without calibration does not load
    from mpsplit.export.weights.calibrated_encoders import Calibrated
    from mpsplit.export.weights.calibration_text import Calibration

FLOAT = Recipe()
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NEED = record({"host": text(r".{0,256}", "a host"), "bytes": whole(0, BYTES)})  # of disk


@dataclass(frozen=True)
class Conversion:
    """`manifest` is None where there were no weights to convert; `read`: bytes of their source that
    each rank read. `verdict`: of calibration, on what was rounded now by all ranks."""

    manifest: Manifest | None
    read: tuple[int, ...]
    verdict: Verdict | None = None


def convert(
    package: Path,
    comm: Communicator,
    pnnx: Pnnx,
    recipe: Recipe = FLOAT,
    model: Path | None = None,
    *,
    calibration: Calibration | None = None,
    share_with: Path | None = None,
    key: Key | None = None,
    weights: Weights | None = None,
) -> Conversion:
    """Converts the slice of this rank, or of all ranks when there is only this process.

    `model`: where the checkpoint is by now; `share_with`: a package to take weight files from;
    `key`: what to encrypt with; `weights`: what is read in the checkpoint's place.
    """
    if not package.is_dir():
        Manifest.load(package, PARTITION)  # says so
    with held_together(package, "converted", comm), ExitStack() as others_held:
        if comm.host_lead:
            forget_unfinished_partition(package)
        comm.exchange(None)
        if share_with and comm.host_lead:
            others_held.enter_context(held(share_with, "read"))
        home = partition_home(package)
        return _convert(package, home, comm, pnnx, recipe, model, calibration, share_with, key, weights)


def _convert(
    package: Path,
    home: Path,
    comm: Communicator,
    pnnx: Pnnx,
    recipe: Recipe,
    model: Path | None,
    calibration: Calibration | None,
    share_with: Path | None,
    key: Key | None,
    weights: Weights | None,
) -> Conversion:
    """`home`: where the partition lies."""
    partition, recipe = _checked(package, home, pnnx, recipe, exact=weights is not None)
    mine = range(partition.plan.ranks) if comm.size == 1 else [comm.rank]
    for at in (package, home):
        for rank in mine:
            forget_unfinished(rank_folder(at, rank))
        if comm.host_lead:
            forget_unfinished(at)
    vault = _vault(rank_folder(package, mine[0]), comm, key)
    shared = shared_texts(home, partition, comm, vault)
    if weights is None:
        weights, recipe = of_checkpoint(home, partition, recipe, model)
    if weights:
        partition = replace(partition, dtype=weights.embedding, repartitioned_from=weights.identity)
    elif calibration:
        raise ConvertError(
            f"{package} was partitioned with --structure-only; to calibrate, say where its weights are with --model DIR"
        )
    graphs = _graphs(home, partition, comm, mine, pnnx, recipe, not vault)
    if weights is None:
        return _without_weights(home, partition, comm, graphs, vault)
    calibrated = _calibrated(calibration, recipe, partition, weights.origin, comm) if calibration else None
    encoder_of = calibrated.encoder_of if calibrated else weights.encoder_of
    others = _indices_of(share_with) if share_with else weights.unchanged
    stores: dict[int, Store] = {}
    for rank in mine:
        shard, param = partition.plan.shards[rank], graphs[rank].param
        files = contents(param, shard, partition.facts, weights.source, recipe, partition.dtype, encoder_of)
        stores[rank] = Store(package, rank, files, weights.source, weights.origin, vault, others)
    _check_room(package, comm, stores)
    with _full_disk_is_told(package, stores):
        read = _filled(stores, weights.source, calibrated, comm)
        texts = {r: rank_texts(r, graphs[r], vault, rank_text(partition, r, stores[r].weight_files)) for r in mine}
        made_with = weights.recipe or ", ".join(map(str, filter(None, (recipe, calibration))))
        manifest = _manifest(partition, comm, pnnx, made_with, stores, texts, shared, vault)
        commit(package, comm, manifest, _joined(texts), shared)
    for rank, store in stores.items():
        store.forget_others()
        forget_parts(rank_folder(package, rank))
    if comm.host_lead:
        forget_other_ranks(package, partition.plan.ranks)
    verdict = calibrated.verdict_of_all() if calibrated else None
    return Conversion(manifest, tuple(by_rank(comm, read, plain(whole(0, BYTES)))), verdict)


def _checked(package: Path, home: Path, pnnx: Pnnx, recipe: Recipe, exact: bool) -> tuple[Manifest, Recipe]:
    """The partition, when this route of pnnx can read it, and the recipe as it holds for its model,
    which an `exact` one does already: it tells how weights are stored that are only repacked."""
    partition = Manifest.load(home, PARTITION)
    if partition.tools[FORM] != pnnx.form:
        raise ConvertError(
            f"{package} was partitioned with --form {partition.tools[FORM]}, this route of pnnx needs --form"
            f" {pnnx.form}"
        )
    recipe.check(linears_of(partition.facts), partition.facts.hidden)
    return partition, recipe if exact else recipe.for_model(partition.facts)


def _graphs(
    package: Path,
    partition: Manifest,
    comm: Communicator,
    mine: Sequence[int],
    pnnx: Pnnx,
    recipe: Recipe,
    readable: bool,
) -> dict[int, Graphs]:
    """By rank, when the collectives of all ranks meet."""
    with _full_disk_is_told(package, {}):
        graphs = {rank: make_graphs(partition, package, rank, pnnx, recipe, readable) for rank in track(mine, "graphs")}
    mine_as_json = {rank: [call.to_json() for call in of_rank.schedule] for rank, of_rank in graphs.items()}
    check_schedules(partition.plan, by_rank(comm, mine_as_json, _schedule_of_a_rank))
    return graphs


def _without_weights(
    package: Path, partition: Manifest, comm: Communicator, graphs: dict[int, Graphs], vault: Vault | None
) -> Conversion:
    """The graphs alone, of a partition that saw a config alone."""
    texts = _joined({rank: rank_texts(rank, of_rank, vault) for rank, of_rank in graphs.items()})
    with texts_beside(package, texts):
        comm.exchange(None)
    return Conversion(None, (0,) * partition.plan.ranks)


def _filled(
    stores: dict[int, Store], source: Source, calibrated: Calibrated | None, comm: Communicator
) -> dict[int, int]:
    """Makes the weight files whole; the bytes that each rank read for it. Calibration takes all
    ranks through it, unless nobody has anything to make."""
    runs_model = calibrated and not all(exchanged(comm, all(store.is_whole for store in stores.values()), plain(flag)))
    read = {rank: _fill(rank, store, source, calibrated) for rank, store in stores.items()}
    if calibrated and runs_model:
        calibrated.finish()
    source.close()
    return read


def _calibrated(
    calibration: Calibration, recipe: Recipe, partition: Manifest, origin: Origin, comm: Communicator
) -> Calibrated:
    from mpsplit.export.weights.calibrated_encoders import Calibrated

    return Calibrated(calibration, recipe, partition, origin, comm)


def _joined(texts: dict[int, Texts]) -> Texts:
    return {name: data for of_rank in texts.values() for name, data in of_rank.items()}


def _schedule_of_a_rank(calls: list[Any]) -> tuple[Call, ...]:
    SCHEDULE(calls, "its schedule")
    return tuple(map(Call.from_json, calls))


def _files_of_a_rank(files: list[Any]) -> tuple[File, ...]:
    FILES(files, "its files")
    return File.many_from_json(files)


def _indices_of(package: Path) -> dict[Path, Index]:
    """By the folders of its ranks."""
    if not (folders := sorted(package.glob("rank-*"))):
        raise ConvertError(f"{package} has no ranks to share weights with; name a converted package, or leave it out")
    return {folder: Index.load(folder) for folder in folders}


def _vault(folder: Path, comm: Communicator, key: Key | None) -> Vault | None:
    """What seals the files: for all ranks the same, and for a conversion that goes on the one that
    it began with."""
    if key is None:
        return None
    package, name = Index.load(folder).seal or ("", "")
    vault = Vault(key, package) if name == key.name else Vault.new(key)
    return Vault(key, of_rank_0(comm, vault.package, plain(PACKAGE_ID)))


def _check_room(package: Path, comm: Communicator, stores: dict[int, Store]) -> None:
    here = platform.node()
    needs = exchanged(comm, {"host": here, "bytes": _missing(stores)}, plain(NEED))
    needed = sum(need["bytes"] for need in needs if need["host"] == here)
    if needed > shutil.disk_usage(package).free:
        raise _no_room(package, needed)


@contextmanager
def _full_disk_is_told(package: Path, stores: dict[int, Store]) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        if wrong.errno not in NO_ROOM:
            raise
        raise _no_room(package, _missing(stores)) from None


def _missing(stores: dict[int, Store]) -> int:
    return sum(store.missing for store in stores.values())


def _no_room(package: Path, missing: int) -> ConvertError:
    needed = f"the weights need {missing:,} bytes more" if missing else "the graphs do not fit"
    return ConvertError(
        f"{needed} in {package.resolve()}, where {shutil.disk_usage(package).free:,} are free; make room there, or"
        " convert with fewer bits (--quant). What is there stays, and the same command goes on from it"
    )


def _fill(rank: int, store: Store, source: Source, calibrated: Calibrated | None) -> int:
    """The bytes that it read."""
    before = source.bytes_read
    with bytes_bar(f"rank {rank}", store.missing) as tell:
        if calibrated:
            calibrated.tell = tell
        store.fill(tell)
    return source.bytes_read - before


def _manifest(
    partition: Manifest,
    comm: Communicator,
    pnnx: Pnnx,
    recipe: str,
    stores: dict[int, Store],
    texts: dict[int, Texts],
    shared: Texts | None,
    vault: Vault | None,
) -> Manifest:
    """With the files of all ranks, signed where they are sealed."""
    mine = {rank: [vars(file) for file in (*listed(texts[rank]), *stores[rank].listed)] for rank in stores}
    files = by_rank(comm, mine, _files_of_a_rank)
    made_with = {"pnnx": pnnx.release, "ncnn": version("ncnn"), "recipe": recipe}
    manifest = partition.with_files(files, made_with)
    if vault is None:
        return manifest
    assert shared is not None, "what belongs to no rank is sealed with the rest"
    return manifest.with_shared({file.path: file for file in listed(shared)}).signed(vault)
