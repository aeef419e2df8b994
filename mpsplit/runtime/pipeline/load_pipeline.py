"""A rank's stages from a package.

In: a package, a communicator. Out: a PipelineRun; refuses what does not fit.
"""

from __future__ import annotations

from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.package.manifest import rank_folder
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_files import StageFiles, stem_of
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.runtime.engine.cores import share_of_cores
from mpsplit.runtime.pipeline.nets.load_net import load_net
from mpsplit.runtime.pipeline.pipeline_run import PipelineRun
from mpsplit.runtime.pipeline.shard_work import ShardWork
from mpsplit.runtime.pipeline.sharded_run import ShardedRun


def load_pipeline(package: Path, comm: Communicator) -> PipelineRun:
    """Checks this rank's files and loads them."""
    manifest = StageManifest.load(package)
    manifest.check_ranks(package, comm.size)
    manifest.check_files(package, comm.rank)
    pipeline, folder = Pipeline.load(package), rank_folder(package, comm.rank)
    threads = share_of_cores(comm.local_size)
    names = {Path(file.path).name for file in manifest.ranks[comm.rank].files}
    nets = []
    for number in pipeline.of_rank(comm.rank):
        stage = pipeline.stages[number]
        files = StageFiles.of(names, stem_of(number), stage.built.compiler)
        nets.append(load_net(pipeline, stage, folder, files, threads))
    if not pipeline.sharded:
        return PipelineRun(pipeline, nets, comm)
    shards = {}
    for shard in pipeline.shards_of(comm.rank):
        alone, files = pipeline.of_shard(shard), StageFiles.of(names, stem_of(shard.stage, shard.part))
        shards[shard] = load_net(alone, alone.stages[0], folder, files, threads)
    return ShardedRun(pipeline, nets, ShardWork(pipeline, shards, comm), comm)
