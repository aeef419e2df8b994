"""The compilers of stages: what converting takes, how large the files are, and what an input takes
beside eager torch, with one thread each, in turns.

    python bench/compilers.py MODEL --stages 6 [--length 64] [--rounds 5] [--flags=FLAGS] [--json]

MODEL is a checkpoint's folder. It is partitioned for one rank, and converted by ncnn, by IREE, and
by IREE with each `--flags` too; what does not compile is told, and left out. Then each computes the
same random inputs of `--length` tokens, or images. Prints medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import rates

TORCH = "eager torch"


def converted(model: Path, stages: str, compiler, package: Path) -> dict:
    """How it went; the package is there."""
    from mpsplit.comm import Alone
    from mpsplit.export.stages.convert_stages import convert_stages
    from mpsplit.export.stages.partition_stages import partition_stages
    from mpsplit.export.stages.stage_cuts import cut_model
    from mpsplit.package.manifest import rank_folder
    from mpsplit.package.stages.stage_files import COMPILED
    from mpsplit.runtime.pipeline.trial import Trials

    cut = cut_model(model, stages)
    partition_stages(cut, (len(cut.costs),), package, Alone())
    began = time.perf_counter()
    with Trials() as trials:
        made = convert_stages(package, Alone(), compiler, trials)
    sizes: dict[str, int] = {}
    for path in rank_folder(package, 0).iterdir():
        if path.suffix in COMPILED:
            sizes[path.suffix] = sizes.get(path.suffix, 0) + path.stat().st_size
    seconds = time.perf_counter() - began
    return {"convert_seconds": seconds, "bytes": dict(sorted(sizes.items())), "error": max(made.errors)}


def package_way(package: Path) -> Callable[[list], float]:
    from mpsplit.comm import Alone
    from mpsplit.runtime.pipeline.load_pipeline import load_pipeline

    run = load_pipeline(package, Alone())

    def way(inputs: list) -> float:
        began = time.perf_counter()
        list(run.lead(inputs))
        return time.perf_counter() - began

    return way


def torch_way(model: Path) -> Callable[[list], float]:
    import torch

    from mpsplit.export.stages.model_builder import original

    torch.set_num_threads(1)
    module = original(model).eval()

    def way(inputs: list) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for given in inputs:
                module(**{name: torch.from_numpy(array) for name, array in given.items()})
        return time.perf_counter() - began

    return way


def drawn(package: Path, length: int, count: int) -> list[dict[str, np.ndarray]]:
    from mpsplit.package.stages.growing_shapes import numbers
    from mpsplit.package.stages.pipeline import FLOAT, Pipeline

    pipeline, random = Pipeline.load(package), np.random.default_rng(0)
    values = {name: pipeline.values[name] for name in pipeline.inputs}
    return [
        {
            name: random.standard_normal(numbers(value.shape, length), np.float32)
            if value.type == FLOAT
            else random.integers(0, 2, numbers(value.shape, length))  # rows of every table
            for name, value in values.items()
        }
        for _ in range(count)
    ]


def measured(args: argparse.Namespace, folder: Path) -> dict[str, dict]:
    from mpsplit.errors import ConvertError
    from mpsplit.export.graph.pnnx import find_pnnx
    from mpsplit.export.stages.compilers.iree_compiler import IreeCompiler
    from mpsplit.export.stages.compilers.ncnn_compiler import NcnnCompiler

    model = Path(args.model)
    compilers = {"ncnn": NcnnCompiler(find_pnnx()), "IREE": IreeCompiler()}
    compilers |= {f"IREE {flags}": IreeCompiler(tuple(flags.split())) for flags in args.flags}
    packages = {name: folder / str(number) for number, name in enumerate(compilers)}
    found = {}
    for name, package in packages.items():
        try:
            found[name] = converted(model, args.stages, compilers[name], package)
        except ConvertError as wrong:
            print(f"{name}: {wrong}", file=sys.stderr)
    ways = {TORCH: torch_way(model)} | {name: package_way(packages[name]) for name in found}
    speeds = rates(ways, lambda: drawn(packages["ncnn"], args.length, args.inputs), args.rounds)
    return {name: found.get(name, {}) | {"ms": 1e3 / speed} for name, speed in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--stages", default="6")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--inputs", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flags", action="append", default=[], help="of iree-compile, once more with them")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="mpsplit-compilers-") as folder:
        found = measured(args, Path(folder))
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print("| | convert, s | MB | ms an input | x torch |\n|---|---|---|---|---|")
    for name, row in found.items():
        seconds = f"{row['convert_seconds']:.0f}" if "convert_seconds" in row else ""
        sizes = ", ".join(f"{suffix} {size / 1e6:.1f}" for suffix, size in row.get("bytes", {}).items())
        print(f"| {name} | {seconds} | {sizes} | {row['ms']:.1f} | {row['ms'] / found[TORCH]['ms']:.2f} |")


if __name__ == "__main__":
    main()
