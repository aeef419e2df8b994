"""`mpsplit convert` of a pipeline of stages."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mpsplit.comm import world
from mpsplit.commands.stages import held_by
from mpsplit.errors import ConvertError, PlanError
from mpsplit.options.rank_options import on_ranks, started_ranks
from mpsplit.options.stage_options import first_given
from mpsplit.package.manifest import PARTITION
from mpsplit.package.stages.built import IREE, NCNN
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_manifest import StageManifest
from mpsplit.package.stored.recipe import NATIVE, Recipe
from mpsplit.package.together.package_commit import partition_home

if TYPE_CHECKING:
    from mpsplit.export.stages.compilers.stage_compiler import StageCompiler

# options of decoders, and what they are without being given
DECODERS = {"calibrate": None, "calibrate_method": None, "calibrate_tokens": None, "share_with": None, "encrypt": False}
FOR_NCNN = ("quant", "quant_for", "pnnx", "customop")


def convert_stages_command(args: argparse.Namespace) -> int:
    from mpsplit.export.stages.convert_stages import convert_stages
    from mpsplit.runtime.pipeline.trial import Trials

    if wrong := [name for name, usual in DECODERS.items() if getattr(args, name) != usual]:
        raise ConvertError(f"--{wrong[0].replace('_', '-')} is for decoders; leave it out for stages")
    if args.layout != NATIVE:
        raise ConvertError(f"--layout {args.layout} is for decoders; stages have our kernels or float32")
    package = Path(args.package)
    home = partition_home(package)
    ranks = len(StageManifest.load(home, PARTITION).ranks)
    if (started := started_ranks(args)) not in (None, ranks):
        raise PlanError(f"{package} has stages for {ranks} ranks, {started} were started; use `mpirun -np {ranks}`")
    compiler = COMPILERS[args.compiler or NCNN](args, Pipeline.load(home))
    if not args.serial and (code := on_ranks(ranks, args)) is not None:
        return code
    comm, began = world(), time.perf_counter()
    with Trials() as trials:
        made = convert_stages(package, comm, compiler, trials, Path(args.model) if args.model else None)
    if comm.rank == 0:
        for rank, part in enumerate(made.manifest.ranks):
            size = sum(file.size for file in part.files)
            print(f"rank {rank}: {held_by(made.pipeline, rank)}, {size:,} bytes; read {made.read[rank]:,} of"
                  f" {part.weight_bytes:,} bytes of weights")  # fmt: skip
        worst = max(range(len(made.errors)), key=made.errors.__getitem__)
        rounded = f", {made.packed} linears in {args.quant or 'f32'}" if made.packed else ""
        print(
            f"each stage{' and shard' * made.pipeline.sharded} was run beside its program: at most"
            f" {made.errors[worst]:.1e} of its largest number off ({made.pipeline.stages[worst].name}){rounded}"
        )
        texts = bool(made.manifest.tokenizer)
        next_step = "--image cat.png" if made.pipeline.images else "--text Hello" if texts else "--tensor x.npz"
        print(f"converted {package} in {time.perf_counter() - began:.1f} s; next: mpsplit run {package} {next_step}")
    if args.verify:
        from mpsplit.commands.staged.staged_verify import verify_stages

        return verify_stages(package, args.verify, comm, None, False)
    return 0


def _ncnn(args: argparse.Namespace, pipeline: Pipeline) -> StageCompiler:
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.export.stages.compilers.ncnn_compiler import NcnnCompiler

    recipe = Recipe.parse(args.quant, args.block, ",".join(args.quant_for), args.scales, args.layout)
    return NcnnCompiler(find_pnnx(args.pnnx, args.customop), recipe)


def _iree(args: argparse.Namespace, pipeline: Pipeline) -> StageCompiler:
    from mpsplit.export.stages.compilers.iree_compiler import IreeCompiler

    if wrong := first_given(args, FOR_NCNN):
        raise ConvertError(f"{wrong} is for ncnn; --compiler iree keeps weights in float32, leave {wrong} out")
    if pipeline.sharded:
        raise ConvertError(f"--compiler iree runs a stage whole; {args.package} has --shards, which need ncnn")
    return IreeCompiler()


COMPILERS: dict[str, Callable[[argparse.Namespace, Pipeline], StageCompiler]] = {NCNN: _ncnn, IREE: _iree}
