"""`mpsplit convert`: every rank turns its traced slice into an ncnn graph. In: a partition. Out: a package.

Invariant: manifest.json is written last, by ranks that agree on their collectives; until then there is no package. What was
rewritten can be read in rank-R/passes/, one .param after each step.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import ConvertError, PackageError
from mpsplit.export.capture import examples
from mpsplit.export.fuse import fuse
from mpsplit.export.partition import FORM, tools
from mpsplit.export.pnnx import Pnnx, run_pnnx
from mpsplit.export.quantise import quantise
from mpsplit.export.rewrites import REWRITES, Context
from mpsplit.export.schedule import check_schedules
from mpsplit.package.collectives import BY_LAYER, Call
from mpsplit.package.manifest import (
    EMBED,
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
from mpsplit.package.param import Layer, Param
from mpsplit.package.quantisation import FLOAT, Quantisation
from mpsplit.package.rank_text import rank_text
from mpsplit.progress import track

PASSES = "passes"
FILES = (GRAPH, FUSED, WEIGHTS, QUANTISED, EMBED, RANK_TEXT)


def convert(package: Path, comm: Communicator, pnnx: Pnnx, how: Quantisation = FLOAT) -> Manifest:
    """Converts the slice of this rank, or of all ranks when there is only this process."""
    partition = Manifest.load(package, PARTITION)
    if partition.tools[FORM] != pnnx.form:
        raise ConvertError(
            f"{package} was partitioned with --form {partition.tools[FORM]}, this route of pnnx needs --form {pnnx.form}"
        )
    plan = partition.plan
    mine = range(plan.ranks) if comm.size == 1 else [comm.rank]
    if comm.host_lead:
        (package / MANIFEST).unlink(missing_ok=True)
    done = {rank: _convert_rank(partition, package, rank, pnnx, how) for rank in track(mine, "convert")}
    everybody = {rank: result for shared in comm.exchange(done) for rank, result in shared.items()}
    check_schedules(plan, [everybody[rank][0] for rank in range(plan.ranks)])
    manifest = partition.with_files([everybody[rank][1] for rank in range(plan.ranks)], tools("pnnx", "ncnn"))
    if comm.host_lead:
        manifest.save(package)
    comm.exchange(None)
    return manifest


def _convert_rank(
    partition: Manifest, package: Path, rank: int, pnnx: Pnnx, how: Quantisation
) -> tuple[tuple[Call, ...], tuple[File, ...]]:
    folder = rank_folder(package, rank)
    scripts = sorted(folder.glob(f"*-{rank}.pt"))
    if len(scripts) != 1:
        raise PackageError(
            f"{folder} holds {len(scripts)} traced slices (*-{rank}.pt) instead of one; run `mpsplit partition` again"
        )
    shard = partition.plan.shards[rank]
    schedule = partition.ranks[rank].schedule
    traced_with = examples(partition.facts)
    passes, partial = folder / PASSES, folder / f".{PASSES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        converted = run_pnnx(pnnx, scripts[0], traced_with, partial)
        context = Context(schedule, tuple(e.length for e in traced_with), shard.attentions, bool(len(shard.head)))
        param = Param.load(converted.ncnn_param)
        os.replace(converted.ncnn_param, partial / "0-pnnx.param")
        for number, rewrite in enumerate(REWRITES, start=1):
            param = rewrite(param, context)
            (partial / f"{number}-{rewrite.__name__}.param").write_text(str(param), encoding="utf-8")
        (folder / QUANTISED).unlink(missing_ok=True)
        if how.bits:
            floats = converted.ncnn_bin
            param = quantise(param, floats, folder / WEIGHTS, folder / QUANTISED, how)
            (partial / f"{len(REWRITES) + 1}-quantise.param").write_text(str(param), encoding="utf-8")
            floats.unlink()
        else:
            os.replace(converted.ncnn_bin, folder / WEIGHTS)
        (folder / GRAPH).write_text(str(param), encoding="utf-8")
        fused = fuse(param, shard.head.start)
        assert schedule_of(fused) == schedule_of(param), "fusing changed the order of the collectives"
        (folder / FUSED).write_text(str(fused), encoding="utf-8")
        (folder / RANK_TEXT).write_text(rank_text(partition, rank), encoding="utf-8")
        shutil.rmtree(passes, ignore_errors=True)
        os.replace(partial, passes)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = tuple(File.of(package, folder / name) for name in FILES if (folder / name).is_file())
    return schedule_of(param), files


def schedule_of(param: Param) -> tuple[Call, ...]:
    """The collectives that the engine will run, read from the final graph."""
    return tuple(_call(layer) for layer in param.layers if layer.type in BY_LAYER)


def _call(layer: Layer) -> Call:
    collective = BY_LAYER[layer.type]
    missing = [str(i) for i in range(1, len(collective.arguments) + 1) if str(i) not in layer.params]
    if missing:
        raise ConvertError(f"{layer.name} lacks parameter {', '.join(missing)} ({layer})")
    return Call(collective.operator, tuple(int(layer.params[str(i)]) for i in range(1, len(collective.arguments) + 1)))
