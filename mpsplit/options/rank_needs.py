"""What each rank of a command asks of its machine, for a launcher that places it: --launcher ray.

In: arguments. Out: a Need a rank: its memory as its files tell it, its machine as the plan does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mpsplit.launchers.rank_places import Need
from mpsplit.package.manifest import MANIFEST, Manifest
from mpsplit.package.stages.stage_manifest import StageManifest, is_pipeline
from mpsplit.plan.placed_plan import PLAN, Placed
from mpsplit.plan.price.sizes import cache_bytes

PROCESS = 128 << 20  # bytes of a rank beside weights and cache: Python, libraries, activations


def needs_of(args: argparse.Namespace, ranks: int) -> list[Need]:
    """Of a command that runs PACKAGE."""
    package = Path(args.package)
    memory, placed = _running(package, getattr(args, "cache", None)), _placed(package / PLAN, ranks)
    if placed is None:
        return [Need(size, args.threads or 1) for size in memory]
    return [
        Need(size, args.threads or device.threads, device.host)
        for size, device in zip(memory, placed.cluster.devices, strict=True)
    ]


def _placed(path: Path, ranks: int) -> Placed | None:
    """None where no file says which machines there are; plans of stages say none either."""
    if not path.is_file() or "stage_ends" in path.read_text(encoding="utf-8"):
        return None
    placed = Placed.load(path)
    return placed if placed and placed.plan.ranks == ranks else None


def _running(package: Path, cache: int | None) -> list[int]:
    """Bytes by rank: its files, its keys and values of `cache` tokens or of one context."""
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
