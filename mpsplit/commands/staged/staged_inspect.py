"""`mpsplit inspect` of a pipeline of stages: every stage, its rank and its files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mpsplit.commands.stages import show_stages
from mpsplit.errors import RunError
from mpsplit.options.package_argument import keys_of
from mpsplit.options.stage_options import first_given
from mpsplit.package.manifest import File
from mpsplit.package.sealed.opened import demand_no_key
from mpsplit.package.stages.built import NCNN, Built
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_files import StageFiles, stem_of
from mpsplit.package.stages.stage_manifest import StageManifest

DECODERS = ("dot", "svg", "graph", "rank", "unfold", "context")  # options that say nothing of stages
SHORT = 12  # digits of a hash


def inspect_stages_command(args: argparse.Namespace) -> int:
    if wrong := first_given(args, DECODERS):
        raise RunError(f"{wrong} is for decoders, {args.package} holds stages; leave it out")
    package = Path(args.package)
    demand_no_key(package, keys_of(args))
    manifest, pipeline = StageManifest.load(package), Pipeline.load(package)
    if args.check:
        for rank in range(pipeline.ranks):
            manifest.check_files(package, rank, again=True)
    if args.json:
        print(json.dumps(manifest.to_json() | {"pipeline": pipeline.to_json()}, indent=1, ensure_ascii=False))
        return 0
    print(f"{manifest.model}: {manifest.architecture}, {len(pipeline.stages)} stages on {pipeline.ranks} ranks;"
          f" {manifest.tools['recipe']}")  # fmt: skip
    outputs = ", ".join(f"{name} {apart:.2e}" for name, apart in (manifest.verified or {}).items())
    print(f"verified: {outputs} apart" if outputs else "not verified; mpsplit verify PACKAGE MODEL does it")
    show_stages(pipeline)
    for rank, part in enumerate(manifest.ranks):
        print(f"\nrank {rank}, {sum(file.size for file in part.files):,} bytes{_built_by(pipeline, rank)}")
        names = {Path(file.path).name: file for file in part.files}
        for number in pipeline.of_rank(rank):
            _show_files(names, stem_of(number), pipeline.stages[number].built.compiler)
        for shard in pipeline.shards_of(rank):
            _show_files(names, stem_of(shard.stage, shard.part))
    if args.check:
        print(f"\n{sum(len(part.files) for part in manifest.ranks)} files of ranks are as the manifest says")
    if manifest.unused:
        print(f"not used of the checkpoint: {', '.join(manifest.unused)}")
    return 0


def _built_by(pipeline: Pipeline, rank: int) -> str:
    """What compiled its stages, where that is not ncnn; all of a rank are made alike."""
    built = next((pipeline.stages[number].built for number in pipeline.of_rank(rank)), Built())
    return f"; by {built.compiler}, for {built.machine} with {' '.join(built.features)}" if built.machine else ""


def _show_files(names: dict[str, File], stem: str, compiler: str = NCNN) -> None:
    for name in StageFiles.of(names, stem, compiler).names:
        if file := names.get(name):  # a stage whose shards are all of it has none
            print(f"  {file.path:<28} {file.size:>14,} bytes  sha256 {file.sha256[:SHORT]}")
