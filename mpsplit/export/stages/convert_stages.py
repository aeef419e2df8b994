"""`mpsplit convert` of a pipeline: every rank makes ncnn's files of its own stages.

In: a partition of stages. Out: a package that runs.

Invariant: as in convert.py, what was there before stays whole until every rank has everything in
.next/; then all takes its place at one moment. A rank reads the bytes of its own stages alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.export.graph.pnnx import Pnnx
from mpsplit.export.model.model_origin import Origin, open_model
from mpsplit.export.stages.stage_conversion import ConvertedStage, TryOut, convert_stage
from mpsplit.package.json_fields import many, number, record, whole
from mpsplit.package.manifest import MANIFEST, PARTITION, File, rank_folder
from mpsplit.package.manifest_fields import BYTES, FILE, FILES
from mpsplit.package.stages.pipeline import MOST_STAGES, NAMES, STAGES, Pipeline
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.exchanged import by_rank, exchanged, of_rank_0, plain
from mpsplit.package.together.package_commit import NEXT, forget_unfinished_partition, partition_home, sync_below
from mpsplit.package.together.package_commit import commit as put_in_place
from mpsplit.package.together.package_lock import held_together
from mpsplit.package.whole_files import forget_unfinished
from mpsplit.progress import track


@dataclass(frozen=True)
class StageConversion:
    """`errors`: of each stage, how far it is off its program; `packed`: its quantised linears.
    `read`: bytes of the checkpoint, by rank."""

    manifest: StageManifest
    pipeline: Pipeline
    errors: tuple[float, ...]
    packed: tuple[int, ...]
    read: tuple[int, ...]


def convert_stages(
    package: Path, comm: Communicator, pnnx: Pnnx, recipe: Recipe, try_out: TryOut, model: Path | None = None
) -> StageConversion:
    """Converts the stages of this rank, or of all ranks when there is only this process. `model`:
    where the checkpoint is by now; `try_out`: runs a stage's files (runtime/pipeline)."""
    with held_together(package, "converted", comm):
        if comm.host_lead:
            forget_unfinished_partition(package)
            forget_unfinished(package)
        comm.exchange(None)
        home = partition_home(package)
        partition, pipeline = StageManifest.load(home, PARTITION), Pipeline.load(home)
        mine = range(pipeline.ranks) if comm.size == 1 else [comm.rank]
        checkpoint, _ = open_model(Origin.load(home), model)
        made: dict[int, list[ConvertedStage]] = {}
        read: dict[int, int] = {}
        for rank in mine:
            out = rank_folder(package / NEXT, rank)
            out.mkdir(parents=True, exist_ok=True)
            before = checkpoint.bytes_read
            made[rank] = [
                convert_stage(pipeline, i, rank_folder(home, rank), out, checkpoint, pnnx, recipe, try_out)
                for i in track(pipeline.of_rank(rank), f"stages of rank {rank}")
            ]
            read[rank] = checkpoint.bytes_read - before
        checkpoint.close()
        return _committed(package, comm, partition, pipeline, pnnx, recipe, made, read)


RESULT = record(
    {
        "files": FILES,
        "whole": many(NAMES, MOST_STAGES),
        "errors": many(number(1e30), MOST_STAGES),
        "packed": many(whole(0, BYTES), MOST_STAGES),
        "read": whole(0, BYTES),
    }
)


def _committed(
    package: Path,
    comm: Communicator,
    partition: StageManifest,
    pipeline: Pipeline,
    pnnx: Pnnx,
    recipe: Recipe,
    made: Mapping[int, Sequence[ConvertedStage]],
    read: Mapping[int, int],
) -> StageConversion:
    told = {rank: _result(package / NEXT, rank, stages, read[rank]) for rank, stages in made.items()}
    results = by_rank(comm, told, plain(RESULT))
    wholes = iter([tuple(names) for result in results for names in result["whole"]])
    pipeline = replace(pipeline, stages=tuple(replace(stage, whole=next(wholes)) for stage in pipeline.stages))
    stages_file = None
    if comm.host_lead:
        pipeline.save(package / NEXT)
        stages_file = File.of(package / NEXT, package / NEXT / STAGES)
    listed = of_rank_0(comm, stages_file and vars(stages_file), plain(FILE))
    made_with = {"pnnx": pnnx.release, "ncnn": version("ncnn"), "recipe": str(recipe)}
    files = [File.many_from_json(result["files"]) for result in results]
    manifest = partition.with_files(files, File(**listed), made_with)
    if comm.host_lead:
        manifest.save(package / NEXT, MANIFEST)
    sync_below(package / NEXT)
    exchanged(comm, None, lambda value: None)  # everybody has everything
    if comm.host_lead:
        put_in_place(package)
    exchanged(comm, None, lambda value: None)
    for rank in made:
        _forget_others(package, rank, results[rank])
    return StageConversion(
        manifest,
        pipeline,
        errors=tuple(error for result in results for error in result["errors"]),
        packed=tuple(count for result in results for count in result["packed"]),
        read=tuple(result["read"] for result in results),
    )


def _forget_others(package: Path, rank: int, result: dict) -> None:
    """Matrices that an earlier conversion packed, and this one did not."""
    listed = {Path(file["path"]).name for file in result["files"]}
    for path in rank_folder(package, rank).glob("stage-*.packed.bin"):
        if path.name not in listed:
            path.unlink()


def _result(home: Path, rank: int, stages: Sequence[ConvertedStage], read: int) -> dict:
    folder = rank_folder(home, rank)
    paths = [folder / name for stage in stages for name in stage.files.names]
    return {
        "files": [vars(File.of(home, path)) for path in paths],
        "whole": [list(stage.stage.whole) for stage in stages],
        "errors": [stage.error for stage in stages],
        "packed": [stage.packed for stage in stages],
        "read": read,
    }
