"""The solver against all plans there are, on clusters of any kind; and what it may never do."""

import itertools
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster, Device, Link, Measured, Rate
from mpsplit.plan.cost import attention_seconds, head_seconds, mlp_seconds, price
from mpsplit.plan.messages import ANSWER, all_reduce_seconds, handover_seconds, order_seconds
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import Range, Shard, Share
from mpsplit.plan.sizes import Job, memory
from mpsplit.plan.solver import solve
from mpsplit.plan.steps import divide, steps_of

JOB = Job(kind="q4", block=128, context=64, prompt=32, new=8, chunk=32)


def small(layers: int, kv_heads: int) -> ModelFacts:
    return ModelFacts("LlamaForCausalLM", 128, layers, 4, kv_heads, 32, 512, 384, 64, False)


def device(i: int, memory_bytes: int, read: float, flop: float, step: float) -> Device:
    rate = Rate(Measured(read), Measured(flop))
    return Device(
        name=f"d{i}", host=f"h{i}", threads=1, memory_bytes=memory_bytes, process_bytes=1000, read=rate.decode,
        disk=Measured(1e8), layer_seconds=Measured(2e-6), step_seconds=Measured(step), attention=rate, kinds={"q4": rate},
    )  # fmt: skip


@st.composite
def clusters(draw, facts: ModelFacts, most: int = 3) -> Cluster:
    """Rates over a factor of 10, a link of its own for each pair, memory from far too little to plenty."""
    count = draw(st.integers(1, most))
    plenty = memory(facts, whole(facts), device(0, 0, 1.0, 1.0, 0.0), JOB).total
    part = draw(st.sampled_from([(1.1, 2.0), (0.2, 1.2), (0.3, 0.8), (0.4, 0.6)]))
    devices = tuple(
        device(
            i,
            int(plenty * draw(st.floats(*part))) // 4 * 4 + i,
            draw(st.floats(1e8, 1e9)),
            draw(st.floats(1e9, 1e10)),
            draw(st.floats(0, 1e-4)),
        )
        for i in range(count)
    )
    links = {
        pair: Link.of(draw(st.floats(1e-7, 3e-4)), draw(st.floats(1e7, 1e9)))
        for pair in itertools.combinations(range(count), 2)
    }
    return Cluster(devices, links)


def whole(facts: ModelFacts) -> Shard:
    rows = Range(0, facts.vocabulary)
    return Shard(
        0, 0, Range(0, facts.layers), Range(0, facts.heads), Range(0, facts.kv_heads), Range(0, facts.mlp), rows, rows
    )


# -- brute force: all plans, one after the other ---------------------------------------------------------------------------------


def compositions(whole: int, parts: int, least: int) -> list[tuple[int, ...]]:
    """All ways to write `whole` as so many numbers, each at least `least`."""
    if parts == 1:
        return [(whole,)] if whole >= least else []
    return [(n, *rest) for n in range(least, whole + 1) for rest in compositions(whole - n, parts - 1, least)]


def head_divisions(facts: ModelFacts, ranks: int) -> list[tuple[int, ...]]:
    """Query heads by member: whole KV heads, or for each KV head a division among the members that it is dealt to."""
    each, steps = facts.heads // facts.kv_heads, steps_of(facts, ranks, JOB.block)
    if not steps.dealt:
        return [tuple(n * each for n in counts) for counts in compositions(facts.kv_heads, ranks, 1)]
    own = [compositions(each // steps.heads, sharers, 1) for sharers in steps.dealt]
    return [tuple(n * steps.heads for part in parts for n in part) for parts in itertools.product(*own)]


def divisions(facts: ModelFacts, devices: list[Device], layers: int, first: bool, last: bool):
    """All divisions of a stage that fit: (shares, how full the fullest is)."""
    count, step = len(devices), JOB.block
    roomiest = sorted(range(count), key=lambda i: -(devices[i].memory_bytes - devices[i].process_bytes))
    embed = [0] * count
    for i, rows in zip(
        roomiest if count <= facts.kv_heads else range(count), divide(facts.vocabulary, step, [1] * count), strict=True
    ):
        embed[i] = rows * first
    heads = head_divisions(facts, count)
    columns = compositions(facts.mlp // step, count, 1)
    rows = compositions(facts.vocabulary // step, count, 0) if last else [(0,) * count]
    for h, m, v in itertools.product(heads, columns, rows):
        shares = [Share(h[i], m[i] * step, embed[i], v[i] * step) for i in range(count)]
        full = [part_of_memory(facts, s, d, layers) for s, d in zip(shares, devices, strict=True)]
        if max(full) <= 1:
            yield shares, max(full)


def part_of_memory(facts: ModelFacts, share: Share, device: Device, layers: int) -> float:
    kv_heads = math.ceil(share.heads / (facts.heads // facts.kv_heads))
    sizes = (layers, share.heads, kv_heads, share.mlp, share.embed, share.head)
    return memory(facts, Shard(0, 0, *(Range(0, n) for n in sizes)), device, JOB).total / device.memory_bytes


def computing(
    facts: ModelFacts, shares: list[Share], devices: list[Device], layers: int, rows: int, position: int
) -> float:
    each = facts.heads // facts.kv_heads
    pairs = list(zip(shares, devices, strict=True))
    attention = max(
        attention_seconds(facts, d, s.heads, math.ceil(s.heads / each), rows, position, JOB) for s, d in pairs
    )
    mlp = max(mlp_seconds(facts, d, s.mlp, rows, JOB) for s, d in pairs)
    return layers * (attention + mlp) + max(head_seconds(facts, d, s.head, JOB) for s, d in pairs)


def ordered_groups(devices: int):
    """All lists of groups of all subsets, members in all orders."""
    for count in range(1, devices + 1):
        for order in itertools.permutations(range(devices), count):
            for sizes in (c for parts in range(1, count + 1) for c in compositions(count, parts, 1)):
                stops = list(itertools.accumulate(sizes, initial=0))
                yield [order[a:b] for a, b in itertools.pairwise(stops)]


def brute_force(facts: ModelFacts, cluster: Cluster, goal: str, fullest: float = 1.0) -> float:
    """The least token or first-token seconds, seconds of the slowest stage, or part of the memory; infinite where nothing fits."""
    rows, position = (JOB.prompt, 0) if goal == "first-token" else (1, JOB.position)
    size, known = rows * facts.hidden * 4, {}

    def stage(group: tuple[int, ...], layers: int, first: bool, last: bool, lead: int) -> float:
        key = group, layers, first, last, lead if last else None
        if key not in known:
            known[key] = min(values(group, layers, first, last, lead), default=math.inf)
        return known[key]

    def values(group: tuple[int, ...], layers: int, first: bool, last: bool, lead: int):
        devices = [cluster.devices[d] for d in group]
        sums = (2 * layers + first) * all_reduce_seconds(cluster, group, size) if len(group) > 1 else 0.0
        for shares, full in divisions(facts, devices, layers, first, last):
            answers = [
                cluster.link(lead, d).time(ANSWER) for s, d in zip(shares, group, strict=True) if s.head and d != lead
            ]
            told = max(answers, default=0.0) if "token" in goal else 0.0
            if full <= fullest:
                yield (
                    full
                    if goal == "memory"
                    else computing(facts, shares, devices, layers, rows, position) + sums + told
                )

    best = math.inf
    for groups in ordered_groups(cluster.size):
        hops = [handover_seconds(cluster, a, b, size) for a, b in itertools.pairwise(groups)] + [0.0]
        lead, last = groups[0][0], len(groups) - 1
        opening = (
            order_seconds(cluster.only(groups[0]), range(len(groups[0]))) + cluster.devices[lead].step_seconds.value
        )
        for layers in compositions(facts.layers, len(groups), 1):
            own = [stage(g, n, i == 0, i == last, lead) for i, (g, n) in enumerate(zip(groups, layers, strict=True))]
            if goal == "memory":
                best = min(best, max(own))
            elif goal == "throughput":
                best = min(best, max(seconds + hop for seconds, hop in zip(own, hops, strict=True)))
            else:
                best = min(best, opening + sum(own) + sum(hops))
    return best


def measure(solution, cluster: Cluster, goal: str) -> float:
    cost = solution.cost
    full = [m.total / cluster.devices[d].memory_bytes for m, d in zip(cost.memory, solution.devices, strict=True)]
    assert max(full) <= 1
    return {
        "token": cost.token,
        "first-token": cost.first_token,
        "throughput": 1 / cost.throughput,
        "memory": max(full),
    }[goal]


@st.composite
def cases(draw):
    facts = small(draw(st.integers(1, 8)), draw(st.sampled_from([1, 2, 4])))
    return facts, draw(clusters(facts))


@pytest.mark.parametrize("goal, examples", [("token", 300), ("first-token", 80), ("throughput", 80), ("memory", 80)])
def test_no_plan_is_better(goal, examples):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(cases())
    def compare(case):
        facts, cluster = case
        least = brute_force(facts, cluster, goal)
        if least == math.inf:
            with pytest.raises(PlanError):
                solve(facts, cluster, JOB, goal)
            return
        solution = solve(facts, cluster, JOB, goal)
        assert solution.exact
        assert solution.cost == price(facts, solution.plan, cluster.only(solution.devices), JOB)
        assert measure(solution, cluster, goal) == pytest.approx(least, rel=1e-9)
        if goal == "memory":
            assert solution.cost.token == pytest.approx(
                brute_force(facts, cluster, "token", least * (1 + 1e-12)), rel=1e-9
            )

    compare()
