"""`mpsplit plan`: who owns what on these machines, why, and how fast it will be. In: parsed arguments. Out: a Placed plan, text, pictures.

A plan is what the user says (--pin, --plan, --tensor and --pipeline), or the best there is. Everything comes from config.json and the
machines' description; no weights are needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import ClusterError, PlanError
from mpsplit.plan.cluster import ASSUMED_BANDWIDTH, ASSUMED_LATENCY, ASSUMED_READ, Cluster, described
from mpsplit.plan.cluster_json import load_cluster
from mpsplit.plan.cost import Cost
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.pin import pinned
from mpsplit.plan.placed import Placed
from mpsplit.plan.quantities import bytes_per_second, memory_bytes, seconds, several
from mpsplit.plan.shards import Plan, even_plan
from mpsplit.plan.sizes import Job

ASSUMED_MEMORY = 1 << 40  # of machines that nobody has described: the plan says what it needs


def cluster_of(args: argparse.Namespace, ranks: int | None) -> Cluster:
    """--cluster, or machines described by --ranks, --memory, --read, --latency and --bandwidth."""
    if args.cluster:
        said = [f"--{name}" for name in ("memory", "read", "latency", "bandwidth") if getattr(args, name)]
        if said:
            raise PlanError(f"--cluster {args.cluster} has measured what {' and '.join(said)} would say; give one or the other")
        cluster = load_cluster(Path(args.cluster))
        if ranks and ranks > cluster.size:
            raise ClusterError(f"{args.cluster} has {cluster.size} devices, {ranks} ranks were asked for; probe them all")
        return cluster
    memory = several(args.memory, memory_bytes) if args.memory else []
    count = ranks or len(memory)
    if not count:
        raise PlanError("on which machines? give --cluster FILE (from `mpsplit probe`), --ranks N, or --memory 4G,4G,8G")
    if len(memory) > 1 and len(memory) != count:
        raise PlanError(f"--memory names {len(memory)} machines, {count} ranks were asked for; name one for all, or each")
    return described(
        (memory or [ASSUMED_MEMORY]) * (1 if len(memory) > 1 else count),
        several(args.read, bytes_per_second) if args.read else [ASSUMED_READ],
        seconds(args.latency) if args.latency else ASSUMED_LATENCY,
        bytes_per_second(args.bandwidth) if args.bandwidth else ASSUMED_BANDWIDTH,
    )


def job_of(args: argparse.Namespace, facts: ModelFacts) -> Job:
    context = args.context or facts.context
    if not 0 < context <= facts.context:
        raise PlanError(f"--context {context} is out of range; the model has {facts.context}, so give 1 to {facts.context}")
    for name in ("prompt", "new", "chunk"):
        if getattr(args, name) < 1:
            raise PlanError(f"--{name} {getattr(args, name)} is out of range; it must be at least 1")
    prompt = max(1, min(args.prompt, context - 1))
    return Job(args.quant, args.block, context, prompt, max(1, min(args.new, context - prompt)), args.chunk)
