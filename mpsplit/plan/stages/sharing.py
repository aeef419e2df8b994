"""What shards change in the price of a pipeline.

In: a StagePlan of stages as if each rank ran its own alone, and the parts that several compute.
Out: the same runs of stages, with seconds and bytes of what others do.

A part takes as long as its slowest shard, and what passes for it. Invariant: bytes and operations
are those of the whole: what a rank is spared, others have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.stages.placing import RankShare, StagePlan, stored_bytes


@dataclass(frozen=True)
class PartCost:
    """`lead`: whose stage it is in. By shard: its `ranks`, `weights` in bytes as float32, what
    share of the `flops` it has, and `passed` bytes of an input."""

    lead: int
    ranks: tuple[int, ...]
    weights: tuple[int, ...]
    flops: tuple[float, ...]
    passed: tuple[int, ...]


def with_shards(plan: StagePlan, parts: Sequence[PartCost], cluster: Cluster) -> StagePlan:
    """For all devices of the cluster: those behind the last that has stages have shards alone."""
    kind = plan.kind
    shares = list(plan.ranks)
    behind = shares[-1].last
    shares += [RankShare(device.name, behind, behind, 0, 0.0, 0.0) for device in cluster.devices[len(shares) :]]
    for part in parts:
        taken = [_seconds(cluster, rank, part, shard, kind) for shard, rank in enumerate(part.ranks)]
        passing = [
            cluster.link(part.lead, rank).time(part.passed[shard])
            for shard, rank in enumerate(part.ranks)
            if rank != part.lead
        ]
        lead = shares[part.lead]
        alone = _time(cluster, part.lead, sum(part.flops), sum(part.weights), kind)
        shares[part.lead] = replace(
            lead,
            weights=lead.weights - stored_bytes(sum(part.weights), kind),
            compute_s=max(lead.compute_s - alone, 0.0) + max(taken) + sum(passing),
        )
        for shard, rank in enumerate(part.ranks):
            share = shares[rank]
            share = replace(share, weights=share.weights + stored_bytes(part.weights[shard], kind))
            if rank != part.lead:
                share = replace(share, shards=share.shards + 1, help_s=share.help_s + taken[shard])
            shares[rank] = share
    for share, device in zip(shares, cluster.devices, strict=True):
        if device.process_bytes + share.weights > device.memory_bytes:
            raise PlanError(
                f"{device.name} has {device.memory_bytes - device.process_bytes:,} bytes beside its process, its stages"
                f" and shards need {share.weights:,} in {kind}; give it fewer indices, or fewer bits (--quant)"
            )
    return replace(plan, ranks=tuple(shares))


def _seconds(cluster: Cluster, rank: int, part: PartCost, shard: int, kind: str) -> float:
    return _time(cluster, rank, part.flops[shard], part.weights[shard], kind)


def _time(cluster: Cluster, rank: int, flops: float, weights: int, kind: str) -> float:
    rate = cluster.devices[rank].rate(kind)
    return max(flops / rate.prefill.value, stored_bytes(weights, kind) / rate.decode.value)
