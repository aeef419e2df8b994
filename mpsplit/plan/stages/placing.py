"""Contiguous runs of stages on the ranks of a cluster, and their price.

In: what each stage costs and hands on, a cluster. Out: a StagePlan: where each rank's run ends, and
the seconds of each rank.

The best one lets the slowest rank be as fast as it can: that is what a filled pipeline waits for.
Of those that are equally fast, the one with the least seconds for a single input.

Invariant: every rank has a stage, in the order of the cluster's devices; each fits into its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.price.sizes import BITS

FULL = 4.0  # bytes of a weight in float32


@dataclass(frozen=True)
class StageCost:
    """`weights`: bytes as float32; `flops` of one input; `handed`: bytes that cross the border
    behind it."""

    name: str
    weights: int
    flops: int
    handed: int


@dataclass(frozen=True)
class RankShare:
    """Stages `first` to before `last`; seconds of one input, its computing and its handing over.
    `shards` of others' stages that it has, and the seconds of these (sharing.py)."""

    device: str
    first: int
    last: int
    weights: int
    compute_s: float
    handover_s: float
    shards: int = 0
    help_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.compute_s + self.handover_s + self.help_s


@dataclass(frozen=True)
class StagePlan:
    ranks: tuple[RankShare, ...]
    kind: str = "f32"
    measured: bool = True

    @property
    def latency(self) -> float:
        """Seconds that one input takes."""
        return sum(share.compute_s + share.handover_s for share in self.ranks)

    @property
    def throughput(self) -> float:
        """Inputs a second of the filled pipeline."""
        return 1 / max(max(share.seconds for share in self.ranks), 1e-12)

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(share.last for share in self.ranks if share.first < share.last)

    def to_json(self) -> dict[str, Any]:
        return {
            "stages": self.ranks[-1].last,
            "kind": self.kind,
            "ranks": [asdict(share) for share in self.ranks],
            "latency_s": self.latency,
            "per_second": self.throughput,
        }


def placed(stages: Sequence[StageCost], cluster: Cluster, kind: str = "f32") -> StagePlan:
    """The best runs of stages for all devices of the cluster."""

    def seconds(rank: int, first: int, last: int) -> float | None:
        share = _share(stages, cluster, rank, first, last, kind)
        return None if share is None else share.seconds

    ends = _best_ends(len(stages), cluster.size, seconds)
    if ends is None:
        raise PlanError(_no_room(stages, cluster, kind))
    return priced(stages, cluster, ends, kind)


def even_ends(stages: Sequence[StageCost], ranks: int) -> tuple[int, ...]:
    """Runs for ranks that are all alike, which nobody described: by operations and bytes."""
    sums = [0, *accumulate(stage.flops + stage.weights for stage in stages)]
    ends = _best_ends(len(stages), ranks, lambda rank, first, last: float(sums[last] - sums[first]))
    assert ends, "what has no limit fits"
    return ends


def _best_ends(count: int, ranks: int, seconds: Callable[[int, int, int], float | None]) -> tuple[int, ...] | None:
    """Where the runs of `count` stages end; None where nothing fits. `seconds`: of a rank for the
    stages first to before last, None where they do not fit, and more do not either."""
    if ranks > count:
        raise PlanError(
            f"{count} stages cannot be given to {ranks} ranks, each needs one; use fewer ranks, or --stages {ranks}"
        )
    best: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for rank in range(ranks):
        longer: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        lasts = count - (ranks - 1 - rank)
        for first, (slowest, total, ends) in best.items():
            for last in range(first + 1 if rank < ranks - 1 else count, lasts + 1):
                if (taken := seconds(rank, first, last)) is None:
                    break
                found = max(slowest, taken), total + taken, (*ends, last)
                if last not in longer or found[:2] < longer[last][:2]:
                    longer[last] = found
        best = longer
    return best[count][2] if count in best else None


def priced(stages: Sequence[StageCost], cluster: Cluster, ends: Sequence[int], kind: str = "f32") -> StagePlan:
    """Of runs that somebody else chose."""
    shares = []
    for rank, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
        share = _share(stages, cluster, rank, first, last, kind)
        if share is None:
            raise PlanError(_no_room(stages, cluster, kind))
        shares.append(share)
    return StagePlan(tuple(shares), kind, cluster.measured)


def stored_bytes(weights: int, kind: str) -> int:
    """Of weights in float32, as this kind."""
    return int(weights / FULL * BITS.get(kind, 32) / 8) if kind in BITS else weights


def _share(
    stages: Sequence[StageCost], cluster: Cluster, rank: int, first: int, last: int, kind: str
) -> RankShare | None:
    """None where it does not fit into the device's memory."""
    device, run = cluster.devices[rank], stages[first:last]
    weights = stored_bytes(sum(stage.weights for stage in run), kind)
    if device.process_bytes + weights > device.memory_bytes:
        return None
    rate = device.rate(kind)
    compute = sum(
        max(stage.flops / rate.prefill.value, stored_bytes(stage.weights, kind) / rate.decode.value)
        + device.layer_seconds.value
        for stage in run
    )
    handover = cluster.link(rank, rank + 1).time(run[-1].handed) if rank + 1 < cluster.size else 0.0
    return RankShare(device.name, first, last, weights, compute, handover)


def _no_room(stages: Sequence[StageCost], cluster: Cluster, kind: str) -> str:
    needed = stored_bytes(sum(stage.weights for stage in stages), kind)
    there = sum(device.memory_bytes - device.process_bytes for device in cluster.devices)
    return (
        f"the stages need {needed:,} bytes in {kind}, and no runs of them fit the {cluster.size} machines, which have"
        f" {there:,} beside their processes; use more machines, or fewer bits (--quant)"
    )
