"""`mpsplit verify` of a pipeline of stages: the whole against the original, output by output."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from mpsplit.comm import Communicator, world
from mpsplit.options.package_argument import hold_package, stages_for_ranks
from mpsplit.options.rank_options import on_ranks
from mpsplit.package.stages.stage_manifest import StageManifest


def verify_stages_command(args: argparse.Namespace) -> int:
    package = Path(args.package)
    manifest = stages_for_ranks(args)
    if (code := on_ranks(len(manifest.ranks), args)) is not None:
        return code
    hold_package(args)
    return verify_stages(package, args.model, world(), args.tolerance, args.json)


def verify_stages(package: Path, model: str, comm: Communicator, tolerance: float | None, as_json: bool) -> int:
    """1 where an output is further off than `tolerance`."""
    from mpsplit.check.stages_agreement import compare
    from mpsplit.export.model.model_source import find_model
    from mpsplit.package.json_fields import flag
    from mpsplit.package.together.exchanged import of_rank_0, plain
    from mpsplit.runtime.pipeline.load_pipeline import load_pipeline

    run = load_pipeline(package, comm)
    if comm.rank:
        run.follow()
        return int(of_rank_0(comm, None, plain(flag)))
    found = compare(run, package, find_model(model), tolerance)
    run.end()
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        parts = [part for stage in run.pipeline.stages for part in stage.parts]
        linears = sum(len(part.modules) for part in parts)
        print(f"{found}{f'; {linears} linears in shards' * bool(parts)}")
    manifest = StageManifest.load(package)
    replace(manifest, verified={name: output.found.apart for name, output in found.outputs.items()}).save(package)
    return int(of_rank_0(comm, found.failed, plain(flag)))
