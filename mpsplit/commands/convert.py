"""`mpsplit convert`: from traced slices to files that run.

In: what `partition` left. Out: a package that runs, every rank's part made by its rank.

Invariant: what cannot be is refused before the work.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mpsplit.comm import Communicator, mpi_rank, world
from mpsplit.commands.parts_convert import convert_parts_command
from mpsplit.commands.staged.staged_convert import convert_stages_command
from mpsplit.commands.verify import original_of, verify_converted
from mpsplit.errors import ConvertError, PlanError
from mpsplit.options.package_argument import add_keys, add_package, keys_of
from mpsplit.options.rank_options import add_launcher, add_ranks, add_serial, on_ranks, started_ranks
from mpsplit.package.json_fields import text
from mpsplit.package.manifest import FORM, PARTITION, Manifest
from mpsplit.package.sealed.keys import Key
from mpsplit.package.stages.built import COMPILERS, IREE
from mpsplit.package.stages.stage_manifest import is_pipeline
from mpsplit.package.stored.quantisation import BLOCKS, ROUNDED
from mpsplit.package.stored.recipe import LAYOUTS, METHODS, NATIVE, SCALES, Recipe
from mpsplit.package.together.exchanged import exchanged, plain
from mpsplit.package.together.package_commit import partition_home
from mpsplit.plan.cuts import linears_of


def add_options(parser: argparse.ArgumentParser) -> None:
    add_package(parser)
    add_ranks(parser)
    add_launcher(parser)
    add_serial(parser)
    add = parser.add_argument
    add(
        "--quant",
        choices=ROUNDED,
        help="how linear weights are stored (default: the blocks that a GGUF file has, f32 of other models)",
    )
    add("--block", type=int, choices=BLOCKS, default=32, help="weights that share a scale (default: 32)")
    add("--model", metavar="DIR", help="where the model is by now (default: where it was partitioned)")
    add(
        "--quant-for",
        action="append",
        default=[],
        metavar="NAME=KIND",
        help="other bits for some: lm_head=q8,layers.0.*=q6/64,embed=q8 (may be repeated)",
    )
    add(
        "--scales",
        choices=SCALES,
        default="mse",
        help="scale of a block by its largest weight, or by least squared error (default: mse)",
    )
    add(
        "--layout",
        choices=LAYOUTS,
        default=NATIVE,
        help="whose kernels read the quantised weights: ours, or those of any ncnn, which are slower (default: native)",
    )
    add(
        "--calibrate",
        metavar="FILE",
        help=(
            "text of the kind the model will see: it goes through the float model on all ranks, and rounding spares"
            " what it uses (default: a text that ships, for fewer than 8 bits, where that takes less than four minutes)"
        ),
    )
    add("--no-calibrate", action="store_true", help="no text: rounding alone, with --scales")
    add(
        "--calibrate-method",
        choices=METHODS,
        help="make up for what rounding spoils, or scale inputs before it, or both (default: gptq)",
    )
    add("--calibrate-tokens", type=int, metavar="N", help="how many of FILE's tokens (default: 16384)")
    add("--share-with", metavar="PACKAGE", help="take weight files that are the same from there, one copy for both")
    add("--encrypt", action="store_true", help="seal all but the manifest; plain weights never reach the disk")
    add_keys(parser)
    add(
        "--compiler",
        choices=COMPILERS,
        help="iree makes machine code for this processor, in float32 (default: ncnn)",
    )
    add("--pnnx", metavar="PATH", help="another pnnx than the installed or built one")
    add(
        "--customop",
        metavar="LIB",
        help="operator library, for a pnnx on the same libtorch (default: as built)",
    )
    add("--verify", metavar="MODEL", help="then compare with this model, as `mpsplit verify` does")


def convert_command(args: argparse.Namespace) -> int:
    package = Path(args.package)
    if is_pipeline(partition_home(package)):
        return convert_stages_command(args)
    partition = Manifest.load(partition_home(package), PARTITION)
    ranks = partition.plan.ranks
    started = started_ranks(args)
    if started not in (None, ranks):
        raise PlanError(
            f"{package} was partitioned for {ranks} ranks, {started} were started; use `mpirun -np {ranks}`"
        )
    if args.compiler == IREE:
        return convert_parts_command(args, ranks)
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx

    if args.verify:
        original_of(partition, args.verify)
    key = _key_to_encrypt_with(args)
    kind = "f32" if args.calibrate and args.quant is None else args.quant  # what is calibrated is rounded
    recipe = Recipe.parse(kind, args.block, ",".join(args.quant_for), args.scales, args.layout)
    calibration = _calibration(args, recipe, partition)
    pnnx = find_pnnx(args.pnnx, args.customop, partition.tools[FORM])
    if not args.serial and (code := on_ranks(ranks, args)) is not None:
        return code
    comm = world()
    began = time.perf_counter()
    if args.quant and not args.calibrate and not args.no_calibrate:
        calibration = _by_default(args, recipe, partition, comm)
    model, other = (Path(given) if given else None for given in (args.model, args.share_with))
    made = convert(package, comm, pnnx, recipe, model, calibration=calibration, share_with=other, key=key)
    if comm.rank == 0 and made.manifest:
        _show(package, made.manifest, made.read)
        if made.verdict and made.verdict.rows:
            print(f"calibration: {made.verdict}")
        print(f"converted {package} in {time.perf_counter() - began:.1f} s; next: mpsplit run {package} --prompt Hello")
    elif comm.rank == 0:
        print(f"made the graphs of {ranks} ranks in {package}, no weights: it was partitioned with --structure-only")
        print(f"next: mpsplit convert {package} --model DIR, where the weights are")
    return verify_converted(args) if args.verify else 0


def _key_to_encrypt_with(args: argparse.Namespace) -> Key | None:
    keys = keys_of(args)
    if not args.encrypt and keys.asked:
        raise ConvertError("a key was given, but not to encrypt with; add --encrypt, or leave the key out")
    if args.encrypt and args.share_with:
        raise ConvertError(
            "encrypted packages share no files: each has its own way to write them; leave --share-with out"
        )
    return keys.find() if args.encrypt else None


def _calibration(args: argparse.Namespace, recipe: Recipe, partition: Manifest):
    """None without --calibrate."""
    if args.calibrate is not None and args.no_calibrate:
        raise ConvertError("--calibrate and --no-calibrate exclude each other; leave one out")
    if args.calibrate is None:
        if args.calibrate_method or args.calibrate_tokens is not None:
            raise ConvertError("--calibrate-method and --calibrate-tokens say how; give the text with --calibrate FILE")
        return None
    from mpsplit.export.weights.calibration_text import MOST, Calibration, check_calibration

    check_calibration(recipe, partition, 1 if args.serial and mpi_rank() is None else partition.plan.ranks)
    tokens = MOST if args.calibrate_tokens is None else args.calibrate_tokens
    return Calibration.of(Path(args.calibrate), Path(args.package), args.calibrate_method or METHODS[0], tokens)


def _by_default(args: argparse.Namespace, recipe: Recipe, partition: Manifest, comm: Communicator):
    """For fewer than 8 bits, with the text that ships, where every rank can; None otherwise. Rank 0
    says which."""
    from mpsplit.export.model.model_origin import Origin
    from mpsplit.export.weights.calibration_text import by_default
    from mpsplit.runtime.engine.cores import share_of_cores

    home = partition_home(Path(args.package))
    least = min(filter(None, (recipe.kind_of(name).stored_bits for name in linears_of(partition.facts))), default=8)
    if least >= 8 or not (args.model or Origin.load(home)):
        return None
    calibration, why_not = by_default(partition, home, comm.size, comm.size * share_of_cores(comm.local_size))
    why_not = next(filter(None, exchanged(comm, why_not, plain(text(r".{0,200}", "a reason")))), "")
    if comm.rank == 0:
        print(
            f"not calibrated, scales are searched: {why_not}"
            if why_not
            else "calibrates with a text that ships with mpsplit; --no-calibrate leaves it out",
            flush=True,
        )
    return None if why_not else calibration


def _show(package: Path, manifest: Manifest, read: tuple[int, ...]) -> None:
    """`read`: bytes of each rank's weights."""
    from mpsplit.package.inside.inspection import tied

    for rank, (part, read_bytes) in enumerate(zip(manifest.ranks, read, strict=True)):
        size, bits = sum(file.size for file in part.files), _bits(package, manifest, rank)
        print(f"rank {rank}: {size:,} bytes{bits}; read {read_bytes:,} of {part.weight_bytes:,} bytes of weights")
    if manifest.facts.tied:
        print(f"{tied(manifest)}; stored as {manifest.tools['recipe']}")


def _bits(package: Path, manifest: Manifest, rank: int) -> str:
    """Of a weight as stored, where this host can look: not into the graphs of other hosts, nor into
    sealed ones."""
    from mpsplit.package.inside.rank_contents import contents

    held = None if manifest.sealed else contents(package, manifest, rank, manifest.facts.context).total
    return f", {held.bits:.2f} bits a weight" if held and held.weights else ""
