"""`mpsplit inspect`: what a package holds, rank by rank. In: a Manifest. Out: a plain dict, or text for people."""

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
    told, facts = describe(manifest), manifest.facts
    print(
        f"{told['model']}: {facts.architecture}, {facts.layers} layers, hidden {facts.hidden}, "
        f"{facts.heads} heads on {facts.kv_heads} KV heads, MLP {facts.mlp}, "
        f"vocabulary {facts.vocabulary}{' (tied)' if facts.tied else ''}, context {facts.context}"
    )
    for rank in told["ranks"]:
        collectives = ", ".join(f"{count} {name}" for name, count in rank["collectives"].items()) or "none"
        print(f"\nrank {rank['rank']}, stage {rank['stage']}, layers {rank['layers']}")
        print("  cuts         " + ", ".join(f"{name} {part}" for name, part in rank["cuts"].items()))
        print(f"  weights      {rank['weight_bytes']:,} bytes of the checkpoint")
        print(f"  collectives  {collectives}")
        print("  files        " + ", ".join(f"{path} {size:,}" for path, size in rank["files"].items()))
    if told["unused"]:
        print(f"\nnot used of the checkpoint: {', '.join(told['unused'])}")
