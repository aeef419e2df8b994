"""What each rank of a command asks of its machine, for a launcher that places it: --launcher ray.

In: arguments. Out: a Need a rank: its memory as its files tell it, or what making them takes
(plan/price/making.py); its machine as the plan says.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from mpsplit.launchers.rank_places import Need
from mpsplit.package.manifest import MANIFEST, PARTITION, Manifest
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.package.stages.stage_manifest import StageManifest, is_pipeline
from mpsplit.package.together.package_commit import partition_home
from mpsplit.plan.placed_plan import PLAN, Placed
from mpsplit.plan.price.making import MAKING, calibrating, stage_converting, verifying
from mpsplit.plan.price.sizes import cache_bytes

PROCESS = 128 << 20  # bytes of a rank beside weights and cache: Python, libraries, activations


def needs_of(args: argparse.Namespace, ranks: int) -> list[Need]:
    memory, threads = MEMORY.get(args.name, _running)(args, ranks), getattr(args, "threads", None)
    placed = _placed(_plan_of(args), ranks)
    if placed is None:
        return [Need(size, threads or 1) for size in memory]
    return [
        Need(size, threads or device.threads, device.host)
        for size, device in zip(memory, placed.cluster.devices, strict=True)
    ]


def _plan_of(args: argparse.Namespace) -> Path | None:
    if "package" in args:
        return partition_home(Path(args.package)) / PLAN
    return Path(args.plan) if args.plan else None


def _placed(path: Path | None, ranks: int) -> Placed | None:
    """None where no file says which machines there are; plans of stages say none either."""
    if path is None or not path.is_file() or "stage_ends" in path.read_text(encoding="utf-8"):
        return None
    placed = Placed.load(path)
    return placed if placed and placed.plan.ranks == ranks else None


def _running(args: argparse.Namespace, ranks: int) -> list[int]:
    """Bytes by rank: its files, its keys and values of --cache tokens or of one context."""
    package, cache = Path(args.package), getattr(args, "cache", None)
    if is_pipeline(package):
        return [_files(part) + PROCESS for part in StageManifest.load(package).ranks]
    manifest = Manifest.load(package, MANIFEST)
    facts = manifest.facts
    return [
        _files(part) + len(shard.layers) * cache_bytes(facts, len(shard.kv_heads), cache or facts.context) + PROCESS
        for part, shard in zip(manifest.ranks, manifest.plan.shards, strict=True)
    ]


def _files(part) -> int:
    return sum(file.size for file in part.files)


def _partitioning(args: argparse.Namespace, ranks: int) -> list[int]:
    """No weights but those of a function's module, which it fills before anybody sees them."""
    from mpsplit.export.model.factory_folder import is_factory
    from mpsplit.export.model.model_source import find_model, stored

    held = stored(find_model(args.model)) if is_factory(args.model) else None
    return [MAKING + (held.size if held else 0)] * ranks


def _converting(args: argparse.Namespace, ranks: int) -> list[int]:
    from mpsplit.export.weights.calibration_text import MOST

    home = partition_home(Path(args.package))
    if is_pipeline(home):
        return [stage_converting(largest) for largest in _largest_stages(Pipeline.load(home))]
    manifest = Manifest.load(home, PARTITION)
    facts, tokens = manifest.facts, args.calibrate_tokens or MOST
    calibrates = args.calibrate is not None or bool(args.quant and not args.no_calibrate)
    return [
        MAKING
        + (calibrating(facts, shard, tokens) if calibrates else 0)
        + (verifying(facts, shard) if args.verify else 0)
        for shard in manifest.plan.shards
    ]


def _largest_stages(pipeline: Pipeline) -> list[int]:
    """Bytes by rank; of a stage that it has a shard of, all."""
    held = [
        {*pipeline.of_rank(rank), *(shard.stage for shard in pipeline.shards_of(rank))}
        for rank in range(pipeline.ranks)
    ]
    return [max(pipeline.stages[number].bytes for number in numbers) for numbers in held]


MEMORY: dict[str, Callable[[argparse.Namespace, int], list[int]]] = {
    "partition": _partitioning,
    "convert": _converting,
}
