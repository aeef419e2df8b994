"""The way from layer to layer through groups of devices that costs the least.

In: moves that are allowed, StageTimes. Out: a Route.

It is a dynamic program from the last stage back to the first. A tail is the stages from some group
to the end; one vector holds the least that they cost, by number of layers. A Space says which tails
a group may be put in front of. `every_order` has all groups in all orders, `neighbours` the runs of
one order of the devices.

`search` looks again and again. It divides the stages of the route that it found exactly, which can
only make them dearer, until a route costs what its stages really cost. Invariant: no other route of
the spaces is cheaper, up to the tolerance.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.solve.stage_part import Floats, Ints
from mpsplit.plan.solve.stage_times import StageTimes

ROUNDED = 1 + 1e-9  # a value that has risen more has risen because stages were divided since
# devices up to which runs of neighbours have any length; of more, lengths of three binary digits
# and zeros
MANY = 16
END, START = "end", "start"  # the states in which nothing is placed, and everything


@dataclass(frozen=True)
class Move:
    """`group` is put in front of the state `behind`, which leads to the state `ahead`."""

    behind: Hashable
    group: tuple[int, ...]
    ahead: Hashable


@dataclass(frozen=True)
class Space:
    """Moves, in an order in which a state is complete before anything is put in front of it.

    `lead` becomes rank 0.
    """

    lead: int
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Route:
    """Groups and their layers, first stage first; `value` as the vectors had it."""

    value: float
    lead: int
    stages: tuple[tuple[tuple[int, ...], int], ...]

    def ends(self) -> list[tuple[tuple[int, ...], bool, int | None, int]]:
        """Each stage as StageTimes asks for it."""
        last = len(self.stages) - 1
        return [(g, i == 0, self.lead if i == last else None, n) for i, (g, n) in enumerate(self.stages)]


@dataclass(frozen=True)
class Tail:
    """`cost` of its first stage and `vector` of all its stages, by number of layers."""

    move: Move
    cost: Floats
    vector: Floats


def every_order(cluster: Cluster, kv_heads: int, most: int) -> list[Space]:
    """All groups of all devices in all orders, by who leads; `most` devices in all.

    Where all links are equal, the order of followers counts only in groups that are dealt KV heads.
    """
    devices = range(cluster.size)
    alike = len({cluster.link(a, b) for a, b in combinations(devices, 2)}) <= 1
    spaces = []
    for lead in devices:
        others = [d for d in devices if d != lead]
        followers = [
            group
            for count in range(most)
            for group in (combinations if alike and count < kv_heads else permutations)(others, count)
        ]
        sets = [frozenset(c) for count in range(most) for c in combinations(others, count)]
        moves = []
        for taken in sets:
            behind = taken or END
            for group in followers:
                if taken.isdisjoint(group) and len(taken) + len(group) < most:
                    moves.append(Move(behind, (lead, *group), START))
                    if group:
                        moves.append(Move(behind, group, taken | set(group)))
        spaces.append(Space(lead, tuple(moves)))
    return spaces


def neighbours(order: Sequence[int]) -> Space:
    """The runs of neighbours in this order, from the first device on.

    What comes last may be left out.
    """
    count, moves = len(order), []
    sizes = [n for n in range(1, count + 1) if count <= MANY or n == count or not n % (1 << max(n.bit_length() - 3, 0))]
    for start in reversed(range(count)):
        for stop in (start + size for size in sizes if start + size <= count):
            group, ahead = tuple(order[start:stop]), start or START
            moves.append(Move(END, group, ahead))
            if stop < count:
                moves.append(Move(stop, group, ahead))
    return Space(order[0], tuple(moves))


def search(
    spaces: Sequence[Space],
    times: StageTimes,
    tolerance: float = 0.0,
    rounds: float = np.inf,
    ceiling: float = np.inf,
    patience: float = np.inf,
) -> Route | None:
    """The cheapest route of all spaces whose stages each stay under `ceiling`.

    Where one is found, the search ends after so many rounds at the latest. Nothing comes out where
    none fits, or where none did in `patience` rounds.
    """
    waiting = [(route.value, i, route) for i, space in enumerate(spaces) if (route := _cheapest(space, times, ceiling))]
    heapq.heapify(waiting)
    best, looked = None, 0
    while waiting:
        value, i, route = heapq.heappop(waiting)
        looked += 1
        if looked > rounds if best else looked > patience:
            break
        if best and best.value <= value * (1 + tolerance):
            break
        new = not all(times.known(*end) for end in route.ends())
        real = _divided(route, times, ceiling)
        if np.isfinite(real.value) and (best is None or real.value < best.value):
            best = real
        if (new or real.value > value * ROUNDED) and (again := _cheapest(spaces[i], times, ceiling)):
            heapq.heappush(waiting, (again.value, i, again))
    return best


def _divided(route: Route, times: StageTimes, ceiling: float) -> Route:
    """The route with what it costs once its stages are divided.

    That is infinite where a stage does not fit, or does not stay under the ceiling.
    """
    for end in route.ends():
        times.divide(*end)
    costs = [times.vector(group, first, lead)[layers] for group, first, lead, layers in route.ends()]
    groups = [group for group, _ in route.stages]
    costs[0] += times.opening(groups[0])
    hops = [times.hop(a, b) for a, b in zip(groups, groups[1:], strict=False)] + [0.0]
    value = 0.0
    for cost, hop in reversed(list(zip(costs, hops, strict=True))):
        value = times.goal.combine(value, cost + hop if cost + hop <= ceiling else np.inf)
    return replace(route, value=value)


def _cheapest(space: Space, times: StageTimes, ceiling: float) -> Route | None:
    layers, lead = times.facts.layers, space.lead
    tails: dict[Hashable, list[Tail]] = {}
    # [l, m]: layers behind m of l; below 0 is none
    back = np.subtract.outer(np.arange(layers + 1), np.arange(layers + 1))
    best = np.inf
    first_stage: Tail | None = None
    for move in space.moves:
        first, last = move.group[0] == lead, move.behind == END
        if not last and move.behind not in tails:
            continue
        cost = times.vector(move.group, first, lead if last else None) + (times.opening(move.group) if first else 0.0)
        if not np.isfinite(cost).any():
            continue
        vector = np.where(cost <= ceiling, cost, np.inf)
        if not last:
            vector = _in_front(move.group, vector, tails[move.behind], times, back, ceiling)
        tail = Tail(move, cost, vector)
        if not first:
            tails.setdefault(move.ahead, []).append(tail)
        elif vector[layers] < best:
            best, first_stage = vector[layers], tail
    if first_stage is None:
        return None
    return Route(best, lead, tuple(_trace(first_stage, tails, times, layers, ceiling)))


def _in_front(
    group: tuple[int, ...],
    cost: Floats,
    behind: Sequence[Tail],
    times: StageTimes,
    back: Ints,
    ceiling: float,
) -> Floats:
    """The least of all tails behind with the group in front, by layers.

    Handing on belongs to the group. Where stages add up it may be added to the tail instead, and
    one vector stands for all of them.
    """
    vectors = np.array([tail.vector for tail in behind])
    hops = np.array([times.hop(group, tail.move.group) for tail in behind])
    if times.goal.combine is np.add:
        vectors, hops = (vectors + hops[:, None]).min(axis=0, keepdims=True), np.zeros(1)
    least = np.full(len(cost), np.inf)
    for hop in np.unique(hops):
        rest = np.append(vectors[hops == hop].min(axis=0), np.inf)[np.where(back < 0, len(cost), back)]
        in_front = np.where(cost + hop <= ceiling, cost + hop, np.inf)
        least = np.minimum(least, times.goal.combine(rest, in_front).min(axis=1))
    return least


def _trace(
    tail: Tail, tails: dict[Hashable, list[Tail]], times: StageTimes, layers: int, ceiling: float
) -> list[tuple[tuple[int, ...], int]]:
    """The stages behind the vector's entry for so many layers."""
    stages = []
    while tail.move.behind != END:
        options = []
        for after in tails[tail.move.behind]:
            hop = times.hop(tail.move.group, after.move.group)
            in_front = np.where(tail.cost + hop <= ceiling, tail.cost + hop, np.inf)[: layers + 1]
            both = times.goal.combine(after.vector[layers::-1], in_front)
            options.append((both.min(), int(both.argmin()), after))
        _, count, after = min(options, key=lambda option: option[0])
        stages.append((tail.move.group, count))
        tail, layers = after, layers - count
    return [*stages, (tail.move.group, layers)]
