"""All plans there are, one after the other: what the solver is held against.

In: a small model, a few devices. Out: the least that a plan costs. Invariant: every plan that fits
is priced, of all groups in all orders.
"""

import itertools
import math

from mpsplit.plan.cluster import Cluster, Device
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import attention_seconds, head_seconds, mlp_seconds
from mpsplit.plan.price.message_times import ANSWER, all_reduce_seconds, handover_seconds, order_seconds
from mpsplit.plan.price.sizes import Job, memory
from mpsplit.plan.shards import Range, Shard, Share
from mpsplit.plan.steps import divide, steps_of

JOB = Job(kind="q4", block=128, context=64, prompt=32, new=8, chunk=32)


def compositions(whole: int, parts: int, least: int) -> list[tuple[int, ...]]:
    """All ways to write `whole` as so many numbers, each at least `least`."""
    if parts == 1:
        return [(whole,)] if whole >= least else []
    return [(n, *rest) for n in range(least, whole + 1) for rest in compositions(whole - n, parts - 1, least)]


def head_divisions(facts: ModelFacts, ranks: int) -> list[tuple[int, ...]]:
    """Query heads by member: whole KV heads, or for each KV head a division among the members that
    it is dealt to."""
    per_kv_head, steps = facts.heads // facts.kv_heads, steps_of(facts, ranks, JOB.block)
    if not steps.dealt:
        return [tuple(n * per_kv_head for n in counts) for counts in compositions(facts.kv_heads, ranks, 1)]
    divided = [compositions(per_kv_head // steps.heads, sharers, 1) for sharers in steps.dealt]
    return [tuple(n * steps.heads for part in parts for n in part) for parts in itertools.product(*divided)]


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
    per_kv_head = facts.heads // facts.kv_heads
    pairs = list(zip(shares, devices, strict=True))
    attention = max(
        attention_seconds(facts, d, s.heads, math.ceil(s.heads / per_kv_head), rows, position, JOB) for s, d in pairs
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
    """The least token or first-token seconds, seconds of the slowest stage, or part of the memory;
    infinite where nothing fits."""
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
            answered = max(answers, default=0.0) if "token" in goal else 0.0
            if full <= fullest:
                seconds = computing(facts, shares, devices, layers, rows, position) + sums + answered
                yield full if goal == "memory" else seconds

    best = math.inf
    for groups in ordered_groups(cluster.size):
        hops = [handover_seconds(cluster, a, b, size) for a, b in itertools.pairwise(groups)] + [0.0]
        lead, last = groups[0][0], len(groups) - 1
        opening = (
            order_seconds(cluster.only(groups[0]), range(len(groups[0])), rows)
            + cluster.devices[lead].step_seconds.value
        )
        for layers in compositions(facts.layers, len(groups), 1):
            pairs = zip(groups, layers, strict=True)
            values_of = [stage(group, count, i == 0, i == last, lead) for i, (group, count) in enumerate(pairs)]
            if goal == "memory":
                best = min(best, max(values_of))
            elif goal == "throughput":
                values_of[0] += opening
                best = min(best, max(seconds + hop for seconds, hop in zip(values_of, hops, strict=True)))
            else:
                best = min(best, opening + sum(values_of) + sum(hops))
    return best
