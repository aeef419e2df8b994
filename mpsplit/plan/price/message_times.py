"""The messages that collectives are made of, and how long they take.

In: a group of ranks, bytes. Out: rounds of messages, seconds.

The messages are those that extensions/comm/collectives.cpp sends. The devices of the cluster are
the ranks of the plan, in order. Invariant: within a round all messages travel at once, and the next
round waits for the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsplit.plan.cluster import Cluster

SHORT_SUM = 64 << 10  # bytes up to which an all_reduce sends the whole array at each step
# bytes: what rank 0 tells the others before a step, what the head tells rank 0 after a token
ORDER, ANSWER = 48, 64
TOKEN = 8  # bytes that each token of a chunk adds to its order


@dataclass(frozen=True)
class Transfer:
    """One message of a round: from rank to rank, in bytes."""

    source: int
    target: int
    size: float


def all_reduce_rounds(group: Sequence[int], size: float) -> list[list[Transfer]]:
    """The messages of an all_reduce, round by round.

    Positions beyond a power of two are folded in first and hear the sum last. Short sums double;
    long ones are halved and gathered.
    """
    power = 1 << (len(group).bit_length() - 1)
    folded = [(group[i], group[i - power]) for i in range(power, len(group))]
    aparts = [power >> k for k in range(1, power.bit_length())]

    def exchange(apart: int, part: float) -> list[Transfer]:
        return [Transfer(group[i], group[i ^ apart], part) for i in range(power)]

    if size <= SHORT_SUM:
        rounds = [exchange(apart, size) for apart in aparts]
    else:
        halved = [exchange(apart, size / 2 ** (k + 1)) for k, apart in enumerate(aparts)]
        rounds = halved + halved[::-1]
    if folded:
        rounds = [[Transfer(a, b, size) for a, b in folded], *rounds, [Transfer(b, a, size) for a, b in folded]]
    return rounds


def all_reduce_seconds(cluster: Cluster, group: Sequence[int], size: float) -> float:
    """Each round lasts as long as its slowest pair."""
    return sum(
        max(cluster.link(transfer.source, transfer.target).time(transfer.size) for transfer in transfers)
        for transfers in all_reduce_rounds(group, size)
    )


def handovers(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """Who sends to whom between two stages: member j hears from member j mod the size before."""
    return [(before[j % len(before)], rank) for j, rank in enumerate(after)]


def handover_seconds(cluster: Cluster, before: Sequence[int], after: Sequence[int], size: float) -> float:
    """A rank with several to send to serves them one after the other."""
    spent = dict.fromkeys(before, 0.0)
    for source, target in handovers(before, after):
        spent[source] += cluster.link(source, target).time(size)
    return max(spent.values())


def order_bytes(rows: int) -> int:
    """Of a step of `rows` tokens.

    The tokens of a chunk follow its order in a second broadcast; here they travel with it.
    """
    return ORDER + TOKEN * rows * (rows > 1)


def order_parent(rank: int) -> int:
    """Who tells `rank`: the tree is binomial."""
    return rank & (rank - 1)


def order_seconds(cluster: Cluster, ranks: Sequence[int], rows: int = 1) -> float:
    """Until the last of `ranks` has heard rank 0's order of a step, down the tree."""
    size = order_bytes(rows)

    def heard(rank: int) -> float:
        parent = order_parent(rank)
        return heard(parent) + cluster.link(parent, rank).time(size) if rank else 0.0

    return max(heard(rank) for rank in ranks)
