"""`mpsplit convert --compiler iree` of a decoder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.comm import world
from mpsplit.errors import ConvertError
from mpsplit.options.rank_options import on_ranks
from mpsplit.options.stage_options import first_given
from mpsplit.package.stored.recipe import NATIVE

# options that say how ncnn's files are, or of which kind
FOR_NCNN = (
    "quant", "quant_for", "calibrate", "calibrate_method", "calibrate_tokens", "share_with", "encrypt", "pnnx",
    "customop", "verify",
)  # fmt: skip


def convert_parts_command(args: argparse.Namespace, ranks: int) -> int:
    from mpsplit.export.parts.convert_parts import convert_parts
    from mpsplit.export.stages.compilers.iree_compiler import IreeCompiler

    wrong = first_given(args, FOR_NCNN) or ("" if args.layout == NATIVE else f"--layout {args.layout}")
    if wrong:
        raise ConvertError(f"{wrong} is for ncnn; --compiler iree keeps weights in float32, leave {wrong} out")
    compiler = IreeCompiler()
    if not args.serial and (code := on_ranks(ranks, args)) is not None:
        return code
    comm, began = world(), time.perf_counter()
    made = convert_parts(Path(args.package), comm, compiler, Path(args.model) if args.model else None)
    if comm.rank == 0:
        for rank, (part, read) in enumerate(zip(made.manifest.ranks, made.read, strict=True)):
            size = sum(file.size for file in part.files)
            print(f"rank {rank}: {size:,} bytes; read {read:,} of {part.weight_bytes:,} bytes of weights")
        taken = time.perf_counter() - began
        print(f"converted {args.package} in {taken:.1f} s; next: mpsplit run {args.package} --prompt Hello")
    return 0
