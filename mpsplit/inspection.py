"""`mpsplit inspect`: what a package holds, rank by rank. In: a Manifest. Out: a plain dict, or a table of it."""

from __future__ import annotations

from collections import Counter

from mpsplit.package.manifest import Manifest


def describe(manifest: Manifest) -> dict:
    return {
        "model": manifest.model,
        "architecture": manifest.facts.architecture,
        "facts": manifest.facts.to_json(),
        "stages": [list(group) for group in manifest.plan.stages],
        "unused": list(manifest.unused),
        "tools": manifest.tools,
        "ranks": [
            {
                "rank": shard.rank,
                "stage": shard.stage,
                "layers": str(shard.layers),
                "cuts": {name: str(getattr(shard, name)) for name in ("heads", "kv_heads", "mlp", "embed", "head")},
                "weight_bytes": part.weight_bytes,
                "collectives": dict(Counter(call.operator for call in part.schedule)),
                "files": {file.path: file.size for file in part.files},
            }
            for shard, part in zip(manifest.plan.shards, manifest.ranks, strict=True)
        ],
    }


def show(manifest: Manifest) -> None:
    from rich.console import Console
    from rich.table import Table

    told = describe(manifest)
    table = Table(
        "rank", "stage", "layers", "heads", "KV heads", "MLP", "embedding", "head", "weights", "collectives", "files"
    )
    for rank in told["ranks"]:
        collectives = ", ".join(f"{count} {name}" for name, count in rank["collectives"].items()) or "-"
        files = "\n".join(f"{path} {size:,}" for path, size in rank["files"].items())
        table.add_row(
            str(rank["rank"]),
            str(rank["stage"]),
            rank["layers"],
            *rank["cuts"].values(),
            f"{rank['weight_bytes']:,}",
            collectives,
            files,
        )
    console = Console()
    facts = manifest.facts
    console.print(
        f"{told['model']}: {facts.architecture}, {facts.layers} layers, hidden {facts.hidden}, {facts.heads} heads on {facts.kv_heads} KV heads, "
        f"MLP {facts.mlp}, vocabulary {facts.vocabulary}{' (tied)' if facts.tied else ''}, context {facts.context}"
    )
    console.print(table)
    if told["unused"]:
        console.print(f"not used of the checkpoint: {', '.join(told['unused'])}")
