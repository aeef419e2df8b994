"""What would make a model fit that does not.

In: facts, a Cluster, a Job, and a way to try. Out: what is short, and Remedies.

Invariant: a remedy has been tried, and the model fits with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mpsplit.plan.cluster import ASSUMED_BANDWIDTH, ASSUMED_LATENCY, KINDS, READ_AS, Cluster, LinkTimes
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.sizes import Job, memory
from mpsplit.plan.shards import Range, Shard

SHORTEST = 256  # context worth a suggestion
PIECE = (1 << 30) // 10  # bytes by which one more machine is made larger
LARGER = 1.06  # and at least by so much

Fits = Callable[[ModelFacts, Cluster, Job], bool]


@dataclass(frozen=True)
class Remedy:
    """What to say, and the cluster and the job that fit."""

    text: str
    cluster: Cluster
    job: Job


def shortage(facts: ModelFacts, cluster: Cluster, job: Job) -> str:
    """What the model needs at the least, and what there is."""
    needed, free = least_bytes(facts, cluster, job), free_bytes(cluster)
    machines = "the machine has" if cluster.size == 1 else f"the {cluster.size} machines have"
    pieces = "" if needed > free else ", in pieces that it cannot be divided into"
    return (
        f"the model needs {_gib(needed)} as {job.stored} in a context of {job.context}, {machines} {_gib(free)}"
        f" free{pieces}"
    )


def least_bytes(facts: ModelFacts, cluster: Cluster, job: Job) -> int:
    """Of the whole model on one rank, its process aside; more ranks need more."""
    rows = Range(0, facts.vocabulary)
    layers, heads, kv_heads, mlp = (Range(0, n) for n in (facts.layers, facts.heads, facts.kv_heads, facts.mlp))
    device = cluster.devices[0]
    whole = Shard(0, 0, layers, heads, kv_heads, mlp, rows, rows)
    return memory(facts, whole, device, job).total - device.process_bytes


def free_bytes(cluster: Cluster) -> int:
    return sum(max(device.memory_bytes - device.process_bytes, 0) for device in cluster.devices)


def remedies(facts: ModelFacts, cluster: Cluster, job: Job, fits: Fits) -> list[Remedy]:
    """Fewer bits, a shorter context, one more machine: of each the smallest change that helps."""
    tried = (
        _fewer_bits(facts, cluster, job, fits),
        _shorter(facts, cluster, job, fits),
        _larger(facts, cluster, job, fits),
    )
    return [remedy for remedy in tried if remedy]


def _fewer_bits(facts: ModelFacts, cluster: Cluster, job: Job, fits: Fits) -> Remedy | None:
    for kind in KINDS[KINDS.index(READ_AS.get(job.kind, job.kind)) + 1 :]:
        smaller = replace(job, kind=kind, own=())
        if all(kind in device.kinds for device in cluster.devices) and fits(facts, cluster, smaller):
            return Remedy(f"--quant {kind}", cluster, smaller)
    return None


def _shorter(facts: ModelFacts, cluster: Cluster, job: Job, fits: Fits) -> Remedy | None:
    """The longest context that fits, in halves of the one that does not."""
    context = job.context // 2
    while context >= max(SHORTEST, job.prompt + job.new):
        shorter = replace(job, context=context)
        if fits(facts, cluster, shorter):
            return Remedy(f"--context {context}", cluster, shorter)
        context //= 2
    return None


def _larger(facts: ModelFacts, cluster: Cluster, job: Job, fits: Fits) -> Remedy | None:
    """One more machine like the first, linked as the others are.

    It has the memory that is missing, and a little more until it is enough.
    """
    needed = least_bytes(facts, cluster, job)
    size = max(needed - free_bytes(cluster), PIECE)
    while True:
        size = -(-size // PIECE) * PIECE
        more = with_one_more(cluster, size)
        if fits(facts, more, job):
            return Remedy(f"one more machine with {_gib(size)} free", more, job)
        if size > 2 * needed:
            return None
        size = max(size + PIECE, int(size * LARGER))


def with_one_more(cluster: Cluster, free: int) -> Cluster:
    """A machine like the first, with so many bytes free.

    Its links are like that of the first to the last, or assumed where there is none.
    """
    first, count = cluster.devices[0], cluster.size
    name = f"one-more-{count}"
    device = replace(first, name=name, host=name, memory_bytes=first.process_bytes + free)
    link = cluster.remote or (cluster.link(0, count - 1) if count > 1 else None)
    link = link or LinkTimes.of(ASSUMED_LATENCY, ASSUMED_BANDWIDTH)
    links = {(i, count): link for i in range(count)}
    return replace(cluster, devices=(*cluster.devices, device), links=cluster.links | links, sums=())


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
