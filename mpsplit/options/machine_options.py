"""The machines: --cluster as `mpsplit probe` measured them or Ray lists them, or a description.

In: arguments. Out: a Cluster. Invariant: machines are measured or described, never both. Ray tells
of CPUs and memory alone; the rest of them is described.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mpsplit.errors import ClusterError, PlanError
from mpsplit.package.manifest import Manifest
from mpsplit.plan.cluster import ASSUMED_BANDWIDTH, ASSUMED_FLOP, ASSUMED_LATENCY, ASSUMED_READ, Cluster, described
from mpsplit.plan.cluster_json import load_cluster
from mpsplit.plan.placed_plan import PLAN, Placed
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.quantities import bytes_per_second, flop_per_second, memory_bytes, seconds, several

RAY = "ray"  # for --cluster
ASSUMED_MEMORY = 1 << 40  # of machines that nobody has described: the plan says what it needs
DESCRIPTION = {
    "memory": ("4G,4G,8G", "or what each has for it (default: as much as it takes)"),
    "read": ("15GB/s", "how fast each reads its memory (default: 15GB/s)"),
    "flop": ("100G", "what each computes a second of a prompt (default: 100G)"),
    "latency": ("100us", "of a message between two of them (default: 100us)"),
    "bandwidth": ("117MB/s", "between two of them (default: 117MB/s)"),
}


def add_machines(parser: argparse.ArgumentParser) -> None:
    """For machines that need not be there."""
    parser.add_argument(
        "--cluster",
        metavar="FILE|ray",
        help="the machines, as `mpsplit probe` measured them; or the nodes of the Ray cluster of RAY_ADDRESS or this"
        " machine",
    )
    for name, (example, what) in DESCRIPTION.items():
        parser.add_argument(f"--{name}", metavar=example, help=what)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """For the machines that a package runs on."""
    parser.add_argument(
        "--cluster", metavar="FILE", help="predict for these machines (default: those that the plan was made for)"
    )


def cluster_of(args: argparse.Namespace, ranks: int | None) -> Cluster:
    """--cluster, or machines described by --ranks, --memory, --read and others."""
    if args.cluster == RAY:
        return _cluster_of_ray(args, ranks)
    if args.cluster:
        given = [f"--{name}" for name in DESCRIPTION if getattr(args, name)]
        if given:
            raise PlanError(
                f"--cluster {args.cluster} has measured what {' and '.join(given)} would say; give one or the other"
            )
        cluster = load_cluster(Path(args.cluster))
        if ranks and ranks > cluster.size:
            raise ClusterError(
                f"{args.cluster} has {cluster.size} devices, {ranks} ranks were asked for; probe them all"
            )
        return cluster
    memory = several(args.memory, memory_bytes) if args.memory else []
    count = ranks or len(memory)
    if not count:
        raise PlanError(
            "on which machines? give --cluster FILE (from `mpsplit probe`), --ranks N, or --memory 4G,4G,8G"
        )
    if len(memory) > 1 and len(memory) != count:
        raise PlanError(
            f"--memory names {len(memory)} machines, {count} ranks were asked for; name one for all, or each"
        )
    return _described((memory or [ASSUMED_MEMORY]) * (1 if len(memory) > 1 else count), args)


def _cluster_of_ray(args: argparse.Namespace, ranks: int | None) -> Cluster:
    """A device a node."""
    from mpsplit.launchers.ray_nodes import named_after, nodes_of, usable
    from mpsplit.launchers.ray_session import joined

    if args.memory:
        raise PlanError("--memory and --cluster ray both say what memory there is; leave --memory out")
    with joined(start_one=False) as ray:
        nodes = usable(nodes_of(ray.nodes()))
    if ranks and ranks > len(nodes):
        raise ClusterError(f"Ray's cluster has {len(nodes)} nodes, {ranks} ranks were asked for; `ray start` more")
    return named_after(nodes, _described([node.memory for node in nodes], args))


def _described(memory: Sequence[int], args: argparse.Namespace) -> Cluster:
    """Machines of so many bytes each."""
    return described(
        memory,
        several(args.read, bytes_per_second) if args.read else [ASSUMED_READ],
        seconds(args.latency) if args.latency else ASSUMED_LATENCY,
        bytes_per_second(args.bandwidth) if args.bandwidth else ASSUMED_BANDWIDTH,
        flop_per_second(args.flop) if args.flop else ASSUMED_FLOP,
    )


def placed_of(args: argparse.Namespace, manifest: Manifest) -> Placed | None:
    """The package's plan on --cluster, or on the machines that it was made for.

    None where nobody knows them.
    """
    if args.cluster:
        cluster = load_cluster(Path(args.cluster))
        if cluster.size != manifest.plan.ranks:
            raise PlanError(
                f"{args.cluster} has {cluster.size} devices, {args.package} {manifest.plan.ranks} ranks; probe as many"
                " as will run"
            )
        return Placed(manifest.plan, cluster, Job())
    path = Path(args.package) / PLAN
    return Placed.load(path) if path.is_file() else None
