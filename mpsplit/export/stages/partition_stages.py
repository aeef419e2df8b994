"""`mpsplit partition` of a pipeline: every rank captures the graph and writes its own stages.

In: a CutModel, where each rank's stages end. Out: rank-R/ folders, stages.json and partition.json.

No weights are read. All ranks capture the whole graph, which takes no bytes of weights, and must
find the same.

Invariant: as in partition.py, partition.json is written last, and a failed run leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import ConvertError, ModelError, PlanError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.model.model_origin import KEY, Origin
from mpsplit.export.model.tokenizer_files import copy_tokenizer
from mpsplit.export.new_package import copy_config, new_package, parts_of_all
from mpsplit.export.partition import tools
from mpsplit.export.stages.checkpoint_names import tensors_of
from mpsplit.export.stages.model_builder import TEXT
from mpsplit.export.stages.shard_program import ShardExtraction
from mpsplit.export.stages.stage_cuts import CutModel
from mpsplit.export.stages.stage_program import weight_name
from mpsplit.export.stages.stage_shell import save_shard, save_stage
from mpsplit.package.manifest import PARTITION, File, RankPart, rank_folder
from mpsplit.package.manifest_fields import HASH
from mpsplit.package.stages.pipeline import STAGES, Pipeline
from mpsplit.package.stages.sharded_part import ZEROS
from mpsplit.package.stages.stage_files import stem_of
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.together.exchanged import exchanged, of_rank_0, plain
from mpsplit.package.together.package_commit import NEXT
from mpsplit.package.whole_files import write_json
from mpsplit.progress import track


def partition_stages(
    model: CutModel, ends: tuple[int, ...], out: Path, comm: Communicator, force: bool = False, ranks: int | None = None
) -> tuple[StageManifest, Pipeline]:
    """Writes the stages and shards of this rank, or of all ranks when there is only this process.
    `ranks`: all there are, where some have shards alone."""
    pipeline = model.pipeline(ends, ranks)
    if ranks and pipeline.ranks < ranks:
        raise PlanError(
            f"{len(pipeline.stages)} stages and their shards are for {pipeline.ranks} ranks, {ranks} were asked for;"
            f" use fewer ranks, or --stages {ranks}"
        )
    _check_alike(pipeline, comm)
    checkpoint = checkpoint_of(model.folder)
    tensors = _tensors(model, checkpoint)
    with new_package(out, comm, pipeline.ranks, force) as mine:
        parts = {
            rank: _partition_rank(model, pipeline, checkpoint, tensors, rank, out) for rank in track(mine, "stages")
        }
        manifest = _manifest(model, pipeline, checkpoint, tensors, parts_of_all(comm, parts), out / NEXT, comm)
        if comm.host_lead:
            write_json(out / NEXT / PARTITION, manifest.to_json() | {KEY: Origin.of(checkpoint).to_json()})
    checkpoint.close()
    return manifest, pipeline


def _check_alike(pipeline: Pipeline, comm: Communicator) -> None:
    digest = hashlib.sha256(json.dumps(pipeline.to_json(), sort_keys=True).encode()).hexdigest()
    found = exchanged(comm, digest, plain(HASH))
    if different := [rank for rank, theirs in enumerate(found) if theirs != found[0]]:
        raise ConvertError(
            f"rank {different[0]} captured another graph than rank 0; install the same torch, transformers and mpsplit"
            " for all ranks, and give all the same model"
        )


def _tensors(model: CutModel, checkpoint: Checkpoint) -> dict[str, str]:
    """The checkpoint's tensor of each weight, when all are there in the right shape."""
    subject, prefix = model.subject, model.subject.prefix
    found = tensors_of(subject.whole or subject.module, checkpoint.entries)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    needed = {name: model.capture.node(node).meta["val"].shape for node, name in model.capture.weights.items()}
    if missing := [name for name in needed if name not in tensors]:
        raise ModelError(
            f"the checkpoint lacks {len(missing)} of {len(needed)} weights of {model.architecture}, such as"
            f" {missing[0]}; is a file missing, or config.json of another model?"
        )
    checkpoint.check({tensors[name]: tuple(shape) for name, shape in needed.items()}, ("",))
    return tensors


def _partition_rank(
    model: CutModel, pipeline: Pipeline, checkpoint: Checkpoint, tensors: Mapping[str, str], rank: int, out: Path
) -> RankPart:
    folder = rank_folder(out / NEXT, rank)
    folder.mkdir(parents=True)
    size = 0
    for number in pipeline.of_rank(rank):
        wanted = model.wanted(number)
        if wanted.outputs:
            save_stage(model.capture, wanted, stem_of(number), model.lengths, tensors, folder)
        size += sum(_bytes(checkpoint, tensors[name]) for name in wanted.weights)
    for shard in pipeline.shards_of(rank):
        program = ShardExtraction(model.capture, model.parts[shard.stage][shard.part], shard.number)
        save_shard(program, stem_of(shard.stage, shard.part), model.lengths, tensors, folder)
        cuts = {name: program.entries.get(weight_name(name)) for name in program.weights}
        size += sum(_bytes(checkpoint, tensors[name], cut) for name, cut in cuts.items())
    return RankPart((), size)


def _bytes(checkpoint: Checkpoint, tensor: str, cut: tuple[int, list[int]] | None = None) -> int:
    """Of a tensor, or of those of its entries along an axis that are not zeros."""
    entry = checkpoint.entries[tensor]
    shape = list(entry.shape)
    if cut:
        axis, entries = cut
        shape[axis] = len(entries) - entries.count(ZEROS)
    return entry.itemsize * prod(shape)


def _manifest(
    model: CutModel,
    pipeline: Pipeline,
    checkpoint: Checkpoint,
    tensors: Mapping[str, str],
    ranks: Sequence[RankPart],
    out: Path,
    comm: Communicator,
) -> StageManifest:
    used = {tensors[name] for name in model.capture.weights.values()}
    if comm.host_lead:
        pipeline.save(out)
    manifest = StageManifest(
        model=model.folder.resolve().name,
        architecture=model.architecture,
        ranks=tuple(ranks),
        tokenizer=_tokenizer(model, out) if comm.host_lead else (),
        stages=File.of(out, out / STAGES) if comm.host_lead else None,
        config=copy_config(model.folder, out) if comm.host_lead else None,
        unused=tuple(sorted(set(checkpoint.entries) - used)),
        tools=tools("mpsplit", "torch", "transformers", "safetensors") | {"python": platform.python_version()},
    )
    return of_rank_0(comm, manifest.to_json(), StageManifest.from_json)


def _tokenizer(model: CutModel, out: Path) -> tuple[File, ...]:
    if TEXT not in model.capture.inputs:
        return ()
    return tuple(File.of(out, path) for path in copy_tokenizer(model.folder, out, talks=False))
