"""rank.txt: what one rank must know of its package, a name and numbers a line, for C++ that reads
no JSON.

In: a manifest, the names of the rank's weight files. Out: text; extensions/engine/rank_facts.h
reads it.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpsplit.package.manifest import Manifest
from mpsplit.package.stored.weight_files import WeightFiles


def rank_text(manifest: Manifest, rank: int, files: WeightFiles) -> str:
    return "".join(f"{line}\n" for line in rank_lines(manifest, rank).values()) + str(files)


def rank_lines(manifest: Manifest, rank: int) -> dict[str, str]:
    """name -> its line: what the manifest says."""
    plan, facts = manifest.plan, manifest.facts
    shard = plan.shards[rank]
    said: dict[str, Iterable[object]] = {
        "ranks": [plan.ranks],
        "rank": [rank],
        "group": plan.group(rank),
        "hidden": [facts.hidden],
        "context": [facts.context],
        "window": [facts.window],
        "dtype": [manifest.dtype],
        "first_stage": [int(shard.stage == 0)],
        "embed_start": [shard.embed.start],
        "embed_rows": [len(shard.embed)],
        "head_start": [shard.head.start],
        "head_rows": [len(shard.head)],
        "rope_scaling": [manifest.rope.scaling],
        "inverse_frequencies": manifest.rope.inverse_frequencies,
    }
    return {name: " ".join([name, *map(str, values)]) for name, values in said.items()}
