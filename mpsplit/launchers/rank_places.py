"""What each rank asks for, and what Ray is asked for it.

In: a Need a rank, the Nodes. Out: a bundle of resources a rank, for one placement group; or why
there is no room.

A plan whose machines are nodes of the cluster is followed: each rank goes to its own. Otherwise
rank 0 goes to the machine where the command was typed, if it has room, and Ray spreads the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpsplit.errors import LaunchError
from mpsplit.launchers.ray_nodes import Node

GIB = 2**30
SHOWN = 5  # nodes in a sentence
TOUCH = 0.001  # of a resource that names a node: as many ranks as one likes
Bundle = dict[str, float]


@dataclass(frozen=True)
class Need:
    """Of one rank: bytes of `memory`, CPUs, and the machine's name where a plan says one."""

    memory: int
    threads: int = 1
    host: str = ""

    def __str__(self) -> str:
        return f"{self.threads} CPU{'s' * (self.threads > 1)} and {self.memory / GIB:.2f} GiB"


def bundles(needs: Sequence[Need], nodes: Sequence[Node], own: str = "") -> list[Bundle]:
    """`own`: the id of the node where the command was typed."""
    pins = pinned_nodes(needs, nodes)
    if pins[0] is None:
        needs = [replace(need, threads=1, host="") if need.host else need for need in needs]  # another's plan
        pins[0] = next((node for node in nodes if node.id == own and _fits(needs[0], node)), None)
    _check_room(needs, nodes, pins)
    made = []
    for need, node in zip(needs, pins, strict=True):
        bundle: Bundle = {"CPU": need.threads, "memory": need.memory}
        made.append(bundle | ({mark_of(node, nodes): TOUCH} if node and len(nodes) > 1 else {}))
    return made


def pinned_nodes(needs: Sequence[Need], nodes: Sequence[Node]) -> list[Node | None]:
    """By rank, its machine; none of any where the plan was made for other machines."""
    found = [_named(need.host, nodes) for need in needs]
    strangers = [rank for rank, node in enumerate(found) if node is None]
    if strangers and len(strangers) < len(needs):
        rank = strangers[0]
        raise LaunchError(
            f"the plan puts rank {rank} on {needs[rank].host or 'no machine'}, which is no node of Ray's cluster"
            f" ({_listed(nodes)}); start it with `ray start --node-name`, or plan again with --cluster ray"
        )
    return found


def _named(host: str, nodes: Sequence[Node]) -> Node | None:
    by_name = [node for node in nodes if host and node.name == host]
    by_host = [node for node in nodes if host and node.hostname == host]
    if by_name:
        return by_name[0]
    return by_host[0] if len(by_host) == 1 else None


def mark_of(node: Node, nodes: Sequence[Node]) -> str:
    """A resource that this node alone has: node:ADDRESS of Ray's own, or one that was given to
    it."""
    others = frozenset().union(*(other.marks for other in nodes if other.id != node.id))
    marks = sorted(node.marks - others, key=lambda mark: (not mark.startswith("node:"), mark))
    if not marks:
        raise LaunchError(
            f"Ray cannot tell {node.name} from other nodes of its address; give it a resource of its own:"
            f" ray start --resources '{{\"{node.name}\": 1}}'"
        )
    return marks[0]


def _fits(need: Need, node: Node) -> bool:
    return need.threads <= node.cpus and need.memory <= node.memory


def _check_room(needs: Sequence[Need], nodes: Sequence[Node], pins: Sequence[Node | None]) -> None:
    """Refuses what the cluster could not hold if it were empty: Ray would wait for ever."""
    for rank, (need, pin) in enumerate(zip(needs, pins, strict=True)):
        if not any(_fits(need, node) for node in ([pin] if pin else nodes)):
            raise LaunchError(f"rank {rank} needs {need} of memory, no node of Ray's has them free: {_listed(nodes)}")
    for node in nodes:
        there = [need for need, pin in zip(needs, pins, strict=True) if pin == node]
        if there and not _fits(_sum(there), node):
            raise LaunchError(f"{len(there)} ranks on {node.name} need {_sum(there)}, it has {_has(node)}")
    everything = Node("", "", "", sum(node.cpus for node in nodes), sum(node.memory for node in nodes))
    if not _fits(_sum(needs), everything):
        raise LaunchError(
            f"{len(needs)} ranks need {_sum(needs)} together, Ray's {len(nodes)} nodes have {_has(everything)}:"
            f" {_listed(nodes)}"
        )


def _sum(needs: Sequence[Need]) -> Need:
    return replace(
        needs[0], memory=sum(need.memory for need in needs), threads=sum(need.threads for need in needs), host=""
    )


def _has(node: Node) -> str:
    return f"{node.cpus} CPU{'s' * (node.cpus != 1)} and {node.memory / GIB:.2f} GiB"


def _listed(nodes: Sequence[Node]) -> str:
    shown = [f"{node.name} has {_has(node)}" for node in nodes[:SHOWN]]
    return ", ".join(shown) + (f", and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else "")
