"""Images a second: the filled pipeline of packages, beside eager torch with as many threads, in
turns.

    python bench/images.py MODEL PACKAGE... [--images 16] [--rounds 5]

MODEL is the checkpoint's folder, or `MODULE:FUNCTION`; where a folder `vit-base` is not there, a
ViT-base of random weights is made. In a round each package in turn is given so many random images
by `mpsplit run`, its ranks sharing the cores, and torch computes the same, one after the other and
all as one batch. Prints medians over the rounds, and their ratios to torch's better way.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from turns import Way, in_batches, rates, table

ONE, BATCH = "torch, one by one", "torch, one batch"


def made(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorFast

    ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(folder)
    ViTImageProcessorFast().save_pretrained(folder)


def torch_ways(model: str, threads: int) -> dict[str, Way]:
    import torch

    from mpsplit.export.model.model_source import find_model
    from mpsplit.export.stages.model_builder import original

    torch.set_num_threads(threads)
    module = original(find_model(model)).eval()

    @torch.inference_mode()
    def compute(images: np.ndarray) -> None:
        module(torch.from_numpy(images))

    return {ONE: in_batches(compute, 1), BATCH: in_batches(compute)}


def package_way(package: str, name: str) -> Way:
    """What `run` says that the images took, without start and loading."""

    def way(images: np.ndarray) -> float:
        with tempfile.TemporaryDirectory(prefix="mpsplit-images-") as folder:
            arrays = Path(folder, "images.npz")
            np.savez(arrays, **{name: images})
            command = [sys.executable, "-m", "mpsplit", "run", package, "--tensor", str(arrays), "--out"]
            done = subprocess.run([*command, str(Path(folder, "out.npz"))], capture_output=True, text=True, check=False)
        told = re.search(r" in ([\d.]+) s,", done.stderr)
        if done.returncode or not told:
            raise SystemExit(f"{package} does not run: {done.stderr[-400:]}")
        return float(told[1])

    return way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("packages", nargs="*", help="none: only make vit-base")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if Path(args.model).name == "vit-base" and not Path(args.model).exists():
        made(Path(args.model))
    if not args.packages:
        return
    from mpsplit.package.stages.pipeline import Pipeline

    pipeline = Pipeline.load(Path(args.packages[0]))
    (name,) = pipeline.inputs
    shape = [int(size) for size in pipeline.values[name].shape[1:]]
    random = np.random.default_rng(0)
    ways = torch_ways(args.model, len(os.sched_getaffinity(0)))
    ways |= {Path(package).name: package_way(package, name) for package in args.packages}
    speeds = rates(ways, lambda: random.standard_normal((args.images, *shape), np.float32), args.rounds)
    print(table(speeds, "images", (ONE, BATCH), "torch"))


if __name__ == "__main__":
    main()
