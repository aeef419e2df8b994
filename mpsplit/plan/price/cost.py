"""What a plan costs before anything runs: seconds, bytes of memory, bytes between ranks.

In: a model, a plan, machines, a job. Out: a Cost.

Pure functions from small to large: seconds of half a layer, of a stage, of a token. sizes.py has
the bytes, message_times.py the collectives. The devices of the cluster are the ranks of the plan,
in order.

Decoding reads every weight once, so it takes bytes / rate. A prompt takes flop / rate. In a group
the slowest rank decides, twice a layer. An all_reduce costs its latency once a round, and there are
two a layer. The stages of a pipeline wait for each other, so they add room and not speed.
Invariant: simulation.py, which plays the same message by message, never takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mpsplit.plan.cluster import Cluster, Device
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.message_times import (
    ANSWER,
    Transfer,
    all_reduce_rounds,
    all_reduce_seconds,
    handover_seconds,
    handovers,
    order_seconds,
)
from mpsplit.plan.price.sizes import (
    ACTIVATION,
    Job,
    Memory,
    attention_bytes,
    cache_bytes,
    head_bytes,
    memory,
    mlp_bytes,
)
from mpsplit.plan.shards import Plan, Shard


@dataclass(frozen=True)
class StageCost:
    """Seconds that a token takes in a stage, and on the way to the next one.

    `chunks`: seconds of each chunk of the prompt.
    """

    ranks: tuple[int, ...]
    layers: int
    compute: float
    collectives: float
    handing_on: float
    chunks: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return self.compute + self.collectives + self.handing_on


@dataclass(frozen=True)
class Cost:
    """`token`: seconds a token of one conversation. `first_token`: from the prompt to the first.

    `orders`: seconds a token that rank 0 and the others talk, of which `begin` before stage 0 can
    compute. `payload`: bytes a token that the ranks hand over. `wire`: bytes a token between pairs
    of ranks.
    """

    memory: tuple[Memory, ...]
    busy: tuple[float, ...]  # seconds a token that each rank computes
    stages: tuple[StageCost, ...]
    orders: float
    begin: float
    token: float
    first_token: float
    payload: int
    wire: dict[tuple[int, int], int]

    @property
    def throughput(self) -> float:
        """Tokens a second when requests fill the pipeline.

        The slowest stage decides, and the first one begins anew each time.
        """
        first, *others = (stage.seconds for stage in self.stages)
        return 1 / max([self.begin + first, *others])


# -- seconds of one rank -------------------------------------------------------------------------


def product_seconds(device: Device, stored: int, weights: int, rows: int, job: Job) -> float:
    """`rows` rows times `weights` weights, which are stored in so many bytes.

    Reading or multiplying: whichever takes longer.
    """
    rate = device.rate(job.kind)
    return max(stored / rate.decode.value, 2 * rows * weights / rate.prefill.value)


def attention_seconds(
    facts: ModelFacts, device: Device, heads: int, kv_heads: int, rows: int, position: int, job: Job
) -> float:
    """The attention half of one layer, for `rows` tokens that follow `position` others."""
    weights = 2 * facts.hidden * facts.head_dim * (heads + kv_heads)
    products = product_seconds(device, attention_bytes(facts, heads, kv_heads, job), weights, rows, job)
    seen = position + (rows + 1) // 2
    if facts.window:
        seen = min(seen, facts.window)
    read = cache_bytes(facts, kv_heads, seen) / device.attention.decode.value
    flop = 4 * heads * facts.head_dim * seen * rows / device.attention.prefill.value
    return products + max(read, flop) + device.layer_seconds.value / 2


def mlp_seconds(facts: ModelFacts, device: Device, columns: int, rows: int, job: Job) -> float:
    """The other half."""
    products = product_seconds(device, mlp_bytes(facts, columns, job), 3 * facts.hidden * columns, rows, job)
    return products + device.layer_seconds.value / 2


def head_seconds(facts: ModelFacts, device: Device, rows: int, job: Job) -> float:
    """The logits of one token."""
    return product_seconds(device, head_bytes(facts, rows, job), facts.hidden * rows, 1, job) if rows else 0.0


# -- a plan --------------------------------------------------------------------------------------


def price(facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job) -> Cost:
    assert plan.ranks == cluster.size, f"{plan.ranks} ranks on {cluster.size} devices"
    stages = tuple(_stage(facts, plan, cluster, job, number) for number in range(len(plan.stages)))
    answer = max(
        (cluster.link(0, rank).time(ANSWER) for rank in plan.stages[-1] if rank and len(plan.shards[rank].head)),
        default=0.0,
    )
    choice = cluster.devices[0].step_seconds.value
    heard = {rows: [order_seconds(cluster, group, rows) for group in plan.stages] for rows in {1, *_rows(job)}}
    chunks = zip(*(stage.chunks for stage in stages), strict=True)
    prompt = [(heard[rows], seconds) for rows, seconds in zip(_rows(job), chunks, strict=True)]
    return Cost(
        memory=tuple(memory(facts, s, d, job) for s, d in zip(plan.shards, cluster.devices, strict=True)),
        busy=tuple(_busy(facts, plan.shards[r], cluster.devices[r], 1, job.position, job) for r in range(plan.ranks)),
        stages=stages,
        orders=choice + heard[1][0] + answer,
        begin=choice + heard[1][0],
        token=choice + _through([(heard[1], [stage.seconds for stage in stages])]) + answer,
        first_token=choice + _through(prompt) + answer,
        payload=_payload(facts, plan),
        wire=_wire(facts, plan),
    )


def _halves(facts: ModelFacts, shard: Shard, device: Device, rows: int, position: int, job: Job) -> tuple[float, float]:
    return (
        attention_seconds(facts, device, len(shard.heads), len(shard.kv_heads), rows, position, job),
        mlp_seconds(facts, device, len(shard.mlp), rows, job),
    )


def _busy(facts: ModelFacts, shard: Shard, device: Device, rows: int, position: int, job: Job) -> float:
    layers = len(shard.layers) * sum(_halves(facts, shard, device, rows, position, job))
    return layers + head_seconds(facts, device, len(shard.head), job)


def _rows(job: Job) -> list[int]:
    """Of each chunk of the prompt."""
    return [min(job.chunk, job.prompt - start) for start in range(0, job.prompt, job.chunk)]


def _stage(facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, number: int) -> StageCost:
    group = plan.stages[number]
    steps = zip(_rows(job), range(0, job.prompt, job.chunk), strict=True)
    compute, collectives, handing_on = stage_seconds(facts, plan, cluster, job, number, 1, job.position)
    return StageCost(
        group, len(plan.shards[group[0]].layers), compute, collectives, handing_on,
        tuple(sum(stage_seconds(facts, plan, cluster, job, number, *step)) for step in steps),
    )  # fmt: skip


def stage_seconds(
    facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, number: int, rows: int, position: int
) -> tuple[float, float, float]:
    """Of one step of a stage: computing, collectives, handing on.

    Of each half layer the slowest rank counts.
    """
    group = plan.stages[number]
    shards, devices = [plan.shards[r] for r in group], [cluster.devices[r] for r in group]
    layers, size = len(shards[0].layers), rows * facts.hidden * ACTIVATION
    halves = [_halves(facts, s, d, rows, position, job) for s, d in zip(shards, devices, strict=True)]
    heads = [head_seconds(facts, d, len(s.head), job) for s, d in zip(shards, devices, strict=True)]
    compute = layers * (max(a for a, _ in halves) + max(m for _, m in halves)) + max(heads)
    sums = (2 * layers + (number == 0)) * all_reduce_seconds(cluster, group, size) if len(group) > 1 else 0.0
    last = number + 1 == len(plan.stages)
    return compute, sums, 0.0 if last else handover_seconds(cluster, group, plan.stages[number + 1], size)


def _through(steps: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """When the last step leaves the last stage.

    Of each step: after how long the stages have heard its order, and their seconds. Rank 0 gives
    the order once stage 0 is free. A stage begins once it has heard, the stage before it has
    handed on, and it is free.
    """
    free = [0.0] * len(steps[0][0])
    for heard, seconds in steps:
        given = done = free[0]
        for stage in range(len(free)):
            done = free[stage] = max(done, free[stage], given + heard[stage]) + seconds[stage]
    return free[-1]


def _payload(facts: ModelFacts, plan: Plan) -> int:
    """As the ranks' communicators count it: an array once for each call."""
    calls = 0
    for number, group in enumerate(plan.stages):
        if len(group) > 1:
            calls += len(group) * (2 * len(plan.shards[group[0]].layers) + (number == 0))
        if number:
            calls += len(group)
    return calls * facts.hidden * ACTIVATION


def _wire(facts: ModelFacts, plan: Plan) -> dict[tuple[int, int], int]:
    """Both ways together, the lower rank first."""
    size = facts.hidden * ACTIVATION
    sent: dict[tuple[int, int], int] = {}
    for number, group in enumerate(plan.stages):
        times = 2 * len(plan.shards[group[0]].layers) + (number == 0)
        transfers = [
            Transfer(transfer.source, transfer.target, times * transfer.size)
            for transfer in chain.from_iterable(all_reduce_rounds(group, size))
        ]
        if number:
            transfers += [Transfer(a, b, size) for a, b in handovers(plan.stages[number - 1], group)]
        for transfer in transfers:
            pair = min(transfer.source, transfer.target), max(transfer.source, transfer.target)
            sent[pair] = sent.get(pair, 0) + int(transfer.size)
    return sent
