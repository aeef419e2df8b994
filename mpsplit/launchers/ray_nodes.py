"""The machines of Ray's cluster, as plans and places see them.

In: what `ray.nodes()` lists. Out: Nodes with names of their own, or a Cluster of them.

Ray knows CPUs and memory. It measures nothing, so times of a plan are guesses and the plan says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mpsplit.errors import ClusterError
from mpsplit.plan.cluster import Cluster

ASSIGNED = ("CPU", "GPU", "memory", "object_store_memory")  # of each node; other resources may name one


@dataclass(frozen=True)
class Node:
    """`name`: that of `ray start --node-name`, else its address. `memory` in bytes, as Ray may
    assign it. `marks`: its other resources, by which it may be told from others."""

    id: str
    name: str
    hostname: str
    cpus: int
    memory: int
    marks: frozenset[str] = field(default_factory=frozenset)


def nodes_of(listed: Sequence[dict[str, Any]]) -> list[Node]:
    """Those that are alive, in the order of their names. Where two have one name, a part of their
    ids tells them apart."""
    alive = [entry for entry in listed if entry["Alive"]]
    times = Counter(_name(entry) for entry in alive)
    nodes = []
    for entry in alive:
        name, has = _name(entry), entry["Resources"]
        nodes.append(
            Node(
                id=entry["NodeID"],
                name=name if times[name] == 1 else f"{name}/{entry['NodeID'][:6]}",
                hostname=entry["NodeManagerHostname"],
                cpus=int(has.get("CPU", 0)),
                memory=int(has.get("memory", 0)),
                marks=frozenset(resource for resource in has if resource not in ASSIGNED),
            )
        )
    return sorted(nodes, key=lambda node: node.name)


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("NodeName") or entry["NodeManagerAddress"])


def usable(nodes: Sequence[Node]) -> list[Node]:
    """Those on which a rank may run."""
    found = [node for node in nodes if node.cpus and node.memory]
    if not found:
        raise ClusterError(
            f"none of the {len(nodes)} nodes of Ray's cluster has CPUs and memory to give; see `ray status`"
        )
    return found


def named_after(nodes: Sequence[Node], cluster: Cluster) -> Cluster:
    """The cluster, whose devices are given the names and CPUs of these nodes, one each."""
    devices = (
        replace(device, name=node.name, host=node.name, threads=node.cpus)
        for node, device in zip(nodes, cluster.devices, strict=True)
    )
    return replace(cluster, devices=tuple(devices))
