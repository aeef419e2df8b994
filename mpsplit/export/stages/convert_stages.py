"""`mpsplit convert` of a pipeline: every rank compiles its own stages and shards.

In: a partition of stages. Out: a package that runs.

Invariant: as in convert.py, what was there before stays whole until every rank has everything in
.next/; then all takes its place at one moment. A rank reads the bytes of its own stages and shards
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpsplit.comm import Communicator
from mpsplit.export.model.model_origin import Origin, open_model
from mpsplit.export.stages.compilers.stage_compiler import StageCompiler
from mpsplit.export.stages.stage_conversion import ConvertedStage, TryOut, convert_stage
from mpsplit.package.json_fields import many, number, record, whole
from mpsplit.package.manifest import MANIFEST, PARTITION, File, rank_folder
from mpsplit.package.manifest_fields import BYTES, FILE, FILES
from mpsplit.package.stages.built import BUILT, Built
from mpsplit.package.stages.pipeline import MOST_STAGES, MOST_VALUES, NAMES, STAGES, Pipeline, Shard
from mpsplit.package.stages.stage_files import COMPILED, stem_of
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.together.exchanged import by_rank, exchanged, of_rank_0, plain
from mpsplit.package.together.package_commit import NEXT, forget_unfinished_partition, partition_home, sync_below
from mpsplit.package.together.package_commit import commit as put_in_place
from mpsplit.package.together.package_lock import held_together
from mpsplit.package.whole_files import forget_unfinished
from mpsplit.progress import track


@dataclass(frozen=True)
class StageConversion:
    """`errors`: of each stage, how far it or a shard of it is off its program; `packed`: linears
    that are quantised. `read`: bytes of the checkpoint, by rank."""

    manifest: StageManifest
    pipeline: Pipeline
    errors: tuple[float, ...]
    packed: int
    read: tuple[int, ...]


def convert_stages(
    package: Path, comm: Communicator, compiler: StageCompiler, try_out: TryOut, model: Path | None = None
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
        made: dict[int, Made] = {}
        read: dict[int, int] = {}
        for rank in mine:
            out = rank_folder(package / NEXT, rank)
            out.mkdir(parents=True, exist_ok=True)
            before = checkpoint.bytes_read
            folder = rank_folder(home, rank)
            made[rank] = Made(
                [
                    _converted(pipeline, number, folder, out, checkpoint, compiler, try_out)
                    for number in track(pipeline.of_rank(rank), f"stages of rank {rank}")
                ],
                [
                    _converted_shard(pipeline, shard, folder, out, checkpoint, compiler, try_out)
                    for shard in track(pipeline.shards_of(rank), f"shards of rank {rank}")
                ],
            )
            read[rank] = checkpoint.bytes_read - before
        checkpoint.close()
        return _committed(package, comm, partition, pipeline, compiler, made, read)


@dataclass(frozen=True)
class Made:
    """Of one rank: its stages, None where others do all of one, and its shards."""

    stages: list[ConvertedStage | None]
    shards: list[ConvertedStage]


def _converted(pipeline: Pipeline, number: int, *where: Any) -> ConvertedStage | None:
    stage = pipeline.stages[number].own_graph
    return convert_stage(pipeline, stage, stem_of(number), *where) if stage.outputs else None


def _converted_shard(pipeline: Pipeline, shard: Shard, *where: Any) -> ConvertedStage:
    alone = pipeline.of_shard(shard)
    return convert_stage(alone, alone.stages[0], stem_of(shard.stage, shard.part), *where)


RESULT = record(
    {
        "files": FILES,
        "built": BUILT,
        "whole": many(NAMES, MOST_STAGES),
        "shards": many(whole(0, 1), MOST_VALUES),
        "errors": many(number(1e30), MOST_STAGES),
        "shard_errors": many(number(1e30), MOST_VALUES),
        "packed": whole(0, BYTES),
        "read": whole(0, BYTES),
    }
)


def _committed(
    package: Path,
    comm: Communicator,
    partition: StageManifest,
    pipeline: Pipeline,
    compiler: StageCompiler,
    made: Mapping[int, Made],
    read: Mapping[int, int],
) -> StageConversion:
    told = {rank: _result(package / NEXT, rank, made[rank], read[rank], compiler.built) for rank in made}
    results = by_rank(comm, told, plain(RESULT))
    pipeline, errors = _with_results(pipeline, results)
    stages_file = None
    if comm.host_lead:
        pipeline.save(package / NEXT)
        stages_file = File.of(package / NEXT, package / NEXT / STAGES)
    listed = of_rank_0(comm, stages_file and vars(stages_file), plain(FILE))
    made_with = compiler.tools | {"recipe": compiler.recipe}
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
        errors=errors,
        packed=sum(result["packed"] for result in results),
        read=tuple(result["read"] for result in results),
    )


def _with_results(pipeline: Pipeline, results: Sequence[dict]) -> tuple[Pipeline, tuple[float, ...]]:
    """The pipeline, with what made each stage and which axes of batches it keeps, and how far each
    stage is off."""
    wholes = iter([tuple(names) for result in results for names in result["whole"]])
    errors = [error for result in results for error in result["errors"]]
    kept = {}
    for rank, result in enumerate(results):
        for shard, whole_axis, error in zip(
            pipeline.shards_of(rank), result["shards"], result["shard_errors"], strict=True
        ):
            kept[shard] = whole_axis
            errors[shard.stage] = max(errors[shard.stage], error)
    stages = [
        replace(
            stage,
            whole=next(wholes),
            built=Built.from_json(results[stage.rank]["built"]),
            parts=tuple(
                replace(part, whole=tuple(kept[Shard(number, place, i)] for i in range(len(part.shards))))
                for place, part in enumerate(stage.parts)
            ),
        )
        for number, stage in enumerate(pipeline.stages)
    ]
    return replace(pipeline, stages=tuple(stages)), tuple(errors)


def _forget_others(package: Path, rank: int, result: dict) -> None:
    """Of an earlier conversion: matrices that this one did not pack, files of another compiler."""
    listed = {Path(file["path"]).name for file in result["files"]}
    for path in rank_folder(package, rank).glob("stage-*"):
        if path.name not in listed and path.name.endswith(COMPILED):
            path.unlink()


def _result(home: Path, rank: int, made: Made, read: int, built: Built) -> dict:
    folder, stages = rank_folder(home, rank), [*filter(None, made.stages), *made.shards]
    paths = [folder / name for stage in stages for name in stage.files.names]
    return {
        "files": [vars(File.of(home, path)) for path in paths],
        "built": built.to_json(),
        "whole": [list(stage.stage.whole) if stage else [] for stage in made.stages],
        "shards": [len(shard.stage.whole) for shard in made.shards],
        "errors": [stage.error if stage else 0.0 for stage in made.stages],
        "shard_errors": [shard.error for shard in made.shards],
        "packed": sum(stage.packed for stage in stages),
        "read": read,
    }
