"""What else could be done with these machines, to hold a plan against.

In: facts, a Cluster, a Job, a goal. Out: Alternatives with prices.

These are the best plan, the even ones, the best on fewer devices, and each host as one rank.
Invariant: each fits, and its `cost` is the price of its plan on its own cluster. A host as one rank
is another cluster than its ranks side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost, price
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import even_plan
from mpsplit.plan.solve.solver import FEW_DEVICES, Solution, best, solve

FASTER = 1.01  # how many times faster fewer machines must be to be worth a word


@dataclass(frozen=True)
class Alternative:
    """`solution.devices` are devices of `cluster`."""

    name: str
    solution: Solution
    cluster: Cluster

    @property
    def machines(self) -> int:
        return len({self.cluster.devices[d].host for d in self.solution.devices})


def alternatives(facts: ModelFacts, cluster: Cluster, job: Job, goal: str = "token") -> list[Alternative]:
    """The best first; the others that fit, even ones, on fewer devices, on one host."""
    plans = [Alternative("best", solve(facts, cluster, job, goal), cluster)]
    plans += _even(facts, cluster, job)
    for count in _smaller(cluster.size):
        on_fewer = best(facts, cluster, job, goal, most=count)
        if on_fewer and on_fewer.devices not in [known.solution.devices for known in plans]:
            plans.append(Alternative(f"best on {count}", on_fewer, cluster))
    return plans + alone(facts, cluster, job, goal)


def alone(facts: ModelFacts, cluster: Cluster, job: Job, goal: str = "token") -> list[Alternative]:
    """Each host as one rank with all its threads, where the model fits there.

    Of hosts that are alike, the first.
    """
    hosts: dict[str, Alternative] = {}
    for host in cluster.hosts:
        whole = cluster.whole_host(host)
        alike = repr(replace(whole.devices[0], name="", host=""))
        if alike not in hosts and (on_host := best(facts, whole, job, goal)):
            hosts[alike] = Alternative(f"{host} alone", on_host, whole)
    return list(hosts.values())


def fewer_are_faster(cost: Cost, devices: Sequence[int], cluster: Cluster, others: Sequence[Alternative]) -> str:
    """That some of `others` are faster a token with fewer ranks; empty where none is."""
    fewer = [other for other in others if other.solution.plan.ranks < len(devices)]
    fastest = min(fewer, key=lambda other: other.solution.cost.token, default=None)
    if fastest is None or cost.token < FASTER * fastest.solution.cost.token:
        return ""
    seconds = fastest.solution.cost.token
    hosts = len({cluster.devices[d].host for d in devices})
    return (
        f"slower than fewer: {fastest.name} takes {1e3 * seconds:,.3g} ms a token on {_machines(fastest.machines)}, "
        f"this plan {1e3 * cost.token:,.3g} ms on {_machines(hosts)}, {cost.token / seconds:.1f} times as long"
    )


def _machines(count: int) -> str:
    return f"{count} machine{'s' * (count != 1)}"


def _even(facts: ModelFacts, cluster: Cluster, job: Job) -> Iterator[Alternative]:
    """All devices in their order, for each division into stages of one width, where it fits."""
    for tensor in (n for n in range(cluster.size, 0, -1) if cluster.size % n == 0):
        pipeline = cluster.size // tensor
        try:
            plan = even_plan(facts, tensor, pipeline, job.steps(facts, tensor))
        except PlanError:
            continue
        cost, devices = price(facts, plan, cluster, job), tuple(range(cluster.size))
        if all(
            memory.total <= device.memory_bytes for memory, device in zip(cost.memory, cluster.devices, strict=True)
        ):
            name = f"even, --tensor {tensor} --pipeline {pipeline}"
            yield Alternative(name, Solution(plan, devices, cost, False, "nothing", ()), cluster)


def _smaller(size: int) -> list[int]:
    """Numbers of devices below `size`: all of a few, powers of two of many."""
    return [n for n in range(1, size) if size <= FEW_DEVICES or not n & (n - 1)]
