"""The best plan for these machines: which of them, in which groups and order, with how much each.

In: facts, a Cluster, a Job, a goal. Out: a Solution, or a PlanError that says what is short and
what would help.

shares.py divides one stage, stage_times.py knows what stages cost, routes.py finds the way through
them. A plan may take any devices, in groups of any sizes, with any layers to each group. Heads,
columns and head rows go in the steps of steps.py. Every rank takes a step of heads and columns at
least, and the embedding is even.

On few devices all groups in all orders are searched, so the lead, the links of every pair and the
dealing of KV heads count truly. On many, groups are neighbours in a few orders of the devices, of
which the last may be left out. Invariant: no rank is given more than its device's memory, and
`price` of the plan is the cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost, price, product_seconds
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan, lay_out
from mpsplit.plan.solve.remedies import remedies, shortage
from mpsplit.plan.solve.routes import Space, every_order, neighbours, search
from mpsplit.plan.solve.stage_times import Goal, StageTimes

FEW_DEVICES = 5  # up to which all groups in all orders are searched
MOST_DEVICES = 256  # that are searched: the time grows with the square of their number
CHAINED = 16  # up to which a chain of near devices is begun at each of them
TOLERANCE = 0.005  # a search over many devices ends so near to the best of its space,
ROUNDS = 12  # or after so many rounds
# rounds in which no plan fits, after which a search is given up that has one to fall back on
PATIENCE = 12
# of what the fullest device needs, where its steps are too many to be divided exactly
SLACKS = (0.0, 0.001, 0.01)
# limits to the slowest stage that are tried where chunks of a prompt follow each other,
CEILINGS = 8
LOWER = 0.85  # each so much lower than the one before
MESSAGE = 16 << 10  # bytes by which devices are near to each other


@dataclass(frozen=True)
class Solution:
    """`devices`: of each rank, in order. `searched`: among what this is the best, in words.

    `exact`: whether that is all plans.
    """

    plan: Plan
    devices: tuple[int, ...]
    cost: Cost
    exact: bool
    searched: str
    left_out: tuple[int, ...]


def solve(facts: ModelFacts, cluster: Cluster, job: Job, goal: str = "token") -> Solution:
    if goal not in GOALS:
        raise PlanError(f"there is no goal {goal}; there are {', '.join(GOALS)}")
    solution = best(facts, cluster, job, goal)
    if solution is None:
        helping = [remedy.text for remedy in remedies(facts, cluster, job, fits)]
        raise PlanError(
            f"{shortage(facts, cluster, job)}; "
            + (f"it would fit with {', or with '.join(helping)}" if helping else "nothing that was tried makes it fit")
        )
    return solution


def best(facts: ModelFacts, cluster: Cluster, job: Job, goal: str, most: int | None = None) -> Solution | None:
    """The best plan on at most so many devices, or nothing where the model does not fit."""
    if cluster.size > MOST_DEVICES:
        raise PlanError(
            f"among {cluster.size} machines nobody searches in a useful time, {MOST_DEVICES} are the most; say how to"
            " divide the model with --tensor T and --pipeline P, or with --pin"
        )
    return GOALS[goal](facts, cluster, job, most or cluster.size)


def fits(facts: ModelFacts, cluster: Cluster, job: Job) -> bool:
    return best(facts, cluster, job, "token") is not None


def spaces_of(facts: ModelFacts, cluster: Cluster, job: Job, most: int) -> list[Space]:
    if cluster.size <= FEW_DEVICES:
        return every_order(cluster, facts.kv_heads, most)
    return [neighbours(order[:most]) for order in orders(cluster, job)]


def orders(cluster: Cluster, job: Job) -> list[tuple[int, ...]]:
    """Orders in which neighbours are good groups.

    The fastest first; the roomiest first; host by host; across hosts; the nearest next.
    """
    devices = cluster.devices
    speed = [1 / product_seconds(device, 1, 0, 1, job) for device in devices]
    by_host = [sorted(ranks, key=lambda d: -speed[d]) for ranks in cluster.hosts.values()]
    by_host.sort(key=lambda ranks: -max(speed[d] for d in ranks))
    orders_found = [
        sorted(range(cluster.size), key=lambda d: (-speed[d], d)),
        sorted(range(cluster.size), key=lambda d: (-devices[d].memory_bytes, -speed[d], d)),
        [d for ranks in by_host for d in ranks],
        [d for turn in zip_longest(*by_host) for d in turn if d is not None],
    ]
    starts = orders_found[0] if cluster.size <= CHAINED else orders_found[0][:1]
    orders_found += [_chain(cluster, start, speed) for start in starts]
    return list(dict.fromkeys(tuple(order) for order in orders_found))


def _chain(cluster: Cluster, start: int, speed: Sequence[float]) -> list[int]:
    """From `start`, always the device next that is nearest to the farthest of those before it.

    Of those as near, the fastest.
    """
    chain, far = [start], dict.fromkeys(set(range(cluster.size)) - {start}, 0.0)
    while far:
        far = {d: max(seconds, cluster.link(chain[-1], d).time(MESSAGE)) for d, seconds in far.items()}
        chain.append(min(far, key=lambda d: (far[d], -speed[d], d)))
        del far[chain[-1]]
    return chain


def _token(
    facts: ModelFacts, cluster: Cluster, job: Job, most: int, rounds: int = ROUNDS, patience: float = math.inf
) -> Solution | None:
    return _searched(facts, cluster, job, most, Goal(1, job.position), rounds=rounds, patience=patience)


def _throughput(facts: ModelFacts, cluster: Cluster, job: Job, most: int) -> Solution | None:
    return _searched(facts, cluster, job, most, Goal(1, job.position, combine=np.maximum, answers=False))


def _first_token(facts: ModelFacts, cluster: Cluster, job: Job, most: int) -> Solution | None:
    """One chunk passes from stage to stage, and stages add up.

    Several chunks follow each other, and the slowest stage counts once more for each. So the sum is
    made small under lower and lower ceilings for the slowest.
    """
    chunks = -(-job.prompt // job.chunk)
    goal, ceiling = Goal(min(job.chunk, job.prompt), chunks // 2 * job.chunk), math.inf
    solutions: list[Solution] = []
    while len(solutions) < CEILINGS and (solution := _searched(facts, cluster, job, most, goal, ceiling)):
        solutions.append(solution)
        if chunks == 1:
            break
        ceiling = LOWER * min(ceiling, max(stage.chunks[chunks // 2] for stage in solution.cost.stages))
    first = min(solutions, key=lambda solution: solution.cost.first_token, default=None)
    if first and chunks > 1:
        searched = f"{first.searched}; chunks of the prompt under {len(solutions)} ceilings"
        first = replace(first, exact=False, searched=searched)
    return first


def _memory(facts: ModelFacts, cluster: Cluster, job: Job, most: int) -> Solution | None:
    """First how full the fullest device must be, then the fastest plan with no device fuller."""
    goal = Goal(1, job.position, combine=np.maximum, answers=False, fullest=True)
    least = _searched(facts, cluster, job, most, goal, rounds=ROUNDS // 2)
    if least is None:
        return None
    for slack in SLACKS if cluster.size <= FEW_DEVICES else SLACKS[-1:]:
        part = min(fullest(least, cluster) * (1 + slack), 1.0)
        smaller = tuple(replace(d, memory_bytes=round(d.memory_bytes * part)) for d in cluster.devices)
        if solution := _token(facts, replace(cluster, devices=smaller), job, most, ROUNDS // 2, PATIENCE):
            return replace(solution, exact=solution.exact and least.exact and not slack)
    return replace(least, exact=False)


GOALS = {"token": _token, "first-token": _first_token, "throughput": _throughput, "memory": _memory}


def fullest(solution: Solution, cluster: Cluster) -> float:
    """The part of its memory that the fullest device gives."""
    return max(
        memory.total / cluster.devices[d].memory_bytes
        for memory, d in zip(solution.cost.memory, solution.devices, strict=True)
    )


def _searched(
    facts: ModelFacts,
    cluster: Cluster,
    job: Job,
    most: int,
    goal: Goal,
    ceiling: float = math.inf,
    rounds: int = ROUNDS,
    patience: float = math.inf,
) -> Solution | None:
    times, few = StageTimes(facts, cluster, job, goal), cluster.size <= FEW_DEVICES
    spaces = spaces_of(facts, cluster, job, most)
    limits = (0.0, math.inf, ceiling) if few else (TOLERANCE, rounds, ceiling, patience)
    route = search(spaces, times, *limits)
    if route is None:
        return None
    searched = "all groups in all orders" if few else f"groups of neighbours in {len(spaces)} orders, {rounds} rounds"
    if times.tables.straight:
        searched += "; where memory binds, divided along straight lines"
    divided = [times.divide(*end) for end in route.ends()]
    assert all(divided), "search returns routes whose stages are divided"
    stages = zip(route.stages, divided, strict=True)
    plan = lay_out(facts, [(layers, stage.shares) for (_, layers), stage in stages if stage])
    devices = tuple(d for group, _ in route.stages for d in group)
    left_out = tuple(d for d in range(cluster.size) if d not in devices)
    cost = price(facts, plan, cluster.only(devices), job)
    return Solution(plan, devices, cost, few and not times.tables.straight, searched, left_out)
