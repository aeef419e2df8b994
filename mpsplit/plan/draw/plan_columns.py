"""What both pictures of a plan share: which ranks are drawn as one, and how numbers are said.

In: a plan and its cost. Out: Blocks, text.

Few ranks are drawn one by one. Among many, equal neighbours are one column, and equal stages one
block; where that is not enough, the middle of a stage becomes one column of unlike ranks, whose
numbers are then ranges. Invariant: every rank is in one column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from mpsplit.plan.cluster import MESSAGES, Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.message_times import handovers
from mpsplit.plan.price.sizes import ACTIVATION, Job, Memory
from mpsplit.plan.shards import Plan, Range

FEW = 8  # ranks that are drawn one by one
MOST = 12  # columns of a stage


@dataclass(frozen=True)
class Column:
    """Ranks that are drawn as one, in order."""

    ranks: tuple[int, ...]

    @property
    def name(self) -> str:
        first, last = self.ranks[0], self.ranks[-1]
        if first == last:
            return f"rank {first}"
        between = "to" if self.gapless else "and" if len(self.ranks) == 2 else "..."
        return f"ranks {first} {between} {last}"

    @property
    def short(self) -> str:
        first, last = self.ranks[0], self.ranks[-1]
        return str(first) if first == last else f"{first}{'-' if self.gapless else '..'}{last}"

    @property
    def gapless(self) -> bool:
        return self.ranks[-1] - self.ranks[0] + 1 == len(self.ranks)


@dataclass(frozen=True)
class StageBlock:
    """Stages that are drawn as one, and the columns of their ranks; `group` is the ranks of the
    first of them."""

    stages: Range
    layers: Range
    group: tuple[int, ...]
    columns: tuple[Column, ...]

    @property
    def holds(self) -> str:
        if len(self.layers) < 2:
            return f"layer {self.layers.start}" if len(self.layers) else "no layers"
        return f"layers {self.layers.start} to {self.layers.stop - 1}"

    @property
    def name(self) -> str:
        count = len(self.stages)
        return f"stage {self.stages.start}" if count == 1 else f"stages {self.stages.start} to {self.stages.stop - 1}"


@dataclass(frozen=True)
class Wires:
    """The pairs of ranks between two columns (or within one): how many, their bytes a token
    together, the longest latency."""

    pairs: int
    size: int
    latency: float


def blocks_of(plan: Plan, cluster: Cluster, cost: Cost) -> tuple[StageBlock, ...]:
    many = plan.ranks > FEW
    mark = (lambda rank: _marks(plan, cluster, cost, rank)) if many else lambda rank: rank
    runs = [[(key, tuple(run)) for key, run in groupby(group, key=mark)] for group in plan.stages]
    seconds = [f"{stage.seconds:.2g}" for stage in cost.stages]
    alike = lambda stage: ([(key, len(run)) for key, run in runs[stage]], seconds[stage]) if many else stage  # noqa: E731
    equal = [list(stages) for _, stages in groupby(range(len(runs)), key=alike)]
    return tuple(_block(plan, [runs[stage] for stage in stages], stages[0]) for stages in equal)


def _marks(plan: Plan, cluster: Cluster, cost: Cost, rank: int) -> tuple:
    """What makes a rank different from its neighbours, as far as a picture shows it."""
    shard, device = plan.shards[rank], cluster.devices[rank]
    counts = [len(part) for part in (shard.layers, shard.heads, shard.kv_heads, shard.mlp, shard.embed, shard.head)]
    return (*counts, device.memory_bytes, cost.memory[rank].total, f"{cost.busy[rank]:.2g}")


def _block(plan: Plan, stages: list[list[tuple]], first: int) -> StageBlock:
    """One block of equal stages; each is its runs of equal ranks."""
    columns = [Column(tuple(rank for _, run in runs for rank in run)) for runs in zip(*stages, strict=True)]
    if len(columns) > MOST:
        middle = tuple(sorted(rank for column in columns[2:-1] for rank in column.ranks))
        columns = [*columns[:2], Column(middle), columns[-1]]
    group, last = plan.stages[first], plan.shards[columns[-1].ranks[-1]]
    layers = Range(plan.shards[group[0]].layers.start, last.layers.stop)
    return StageBlock(Range(first, first + len(stages)), layers, group, tuple(columns))


def copied(plan: Plan, column: Column) -> bool:
    """Whether a neighbour in the stage of one of the ranks has KV heads of it too."""
    shards = [plan.shards[rank] for rank in column.ranks]
    near = [(s, plan.shards[r]) for s in shards for r in (s.rank - 1, s.rank + 1) if 0 <= r < plan.ranks]
    return any(a.stage == b.stage and set(a.kv_heads).intersection(b.kv_heads) for a, b in near)


# -- what a picture says beside the columns ------------------------------------------------------


def wires_of(blocks: tuple[StageBlock, ...], cluster: Cluster, cost: Cost) -> dict[tuple[int, int], Wires]:
    """By pairs of columns, counted through all blocks, the heaviest first."""
    columns = [column for block in blocks for column in block.columns]
    home = {rank: i for i, column in enumerate(columns) for rank in column.ranks}
    found: dict[tuple[int, int], Wires] = {}
    for (a, b), size in cost.wire.items():
        between = min(home[a], home[b]), max(home[a], home[b])
        so_far = found.get(between, Wires(0, 0, 0.0))
        latency = max(so_far.latency, cluster.link(a, b).time(MESSAGES[0]))
        found[between] = Wires(so_far.pairs + 1, so_far.size + size, latency)
    return dict(sorted(found.items(), key=lambda item: -item[1].size))


def sums_text(cost: Cost, block: StageBlock) -> str:
    """What the ranks of a stage tell each other for a token."""
    if len(block.group) == 1:
        return "one rank, no sums"
    members = set(block.group)
    size = sum(count for pair, count in cost.wire.items() if members.issuperset(pair))
    if not len(block.layers):
        return f"1 sum: {bytes_text(size)} a token" if size else "no sums"
    return f"{'each ' * (len(block.stages) > 1)}2 sums a layer, {bytes_text(size)} a token"


def handed_text(facts: ModelFacts, plan: Plan, stage: int) -> str:
    """What a stage hands to the next for a token."""
    count, size = len(handovers(plan.stages[stage], plan.stages[stage + 1])), facts.hidden * ACTIVATION
    return f"{bytes_text(size)} a token" if count == 1 else f"{count} x {bytes_text(size)} a token"


def slowest(cost: Cost) -> set[int]:
    """The ranks that compute longest for a token, to a hundredth."""
    return {rank for rank, busy in enumerate(cost.busy) if busy > 0.99 * max(cost.busy)}


def slowest_text(cost: Cost) -> str:
    ranks = sorted(slowest(cost))
    if len(ranks) == len(cost.busy):
        who = "all ranks are equally fast" if len(ranks) > 1 else "one rank"
    else:
        who = f"slowest {'is' if len(ranks) == 1 else 'are'} {Column(tuple(ranks)).name}"
    return f"{who}, computing {seconds_text(max(cost.busy))} of each token"


def times_of(cost: Cost) -> list[tuple[str, str, float]]:
    """What the time of a token goes to: a key, words, seconds."""
    return [
        ("compute", "computing", sum(stage.compute for stage in cost.stages)),
        ("talk", "sums", sum(stage.collectives for stage in cost.stages)),
        ("handing", "handing on", sum(stage.handing_on for stage in cost.stages)),
        ("orders", "rank 0's orders", cost.orders),
    ]


def tightest(cluster: Cluster, cost: Cost, column: Column) -> tuple[Memory, int]:
    """What the rank with the least room takes, and what there is for it."""
    room = lambda rank: cluster.devices[rank].memory_bytes - cost.memory[rank].total  # noqa: E731
    rank = min(column.ranks, key=room)
    return cost.memory[rank], cluster.devices[rank].memory_bytes


def model_text(facts: ModelFacts, plan: Plan, job: Job, name: str) -> str:
    model = name or facts.architecture.removesuffix("ForCausalLM")
    return f"{model}, {facts.layers} layers, {job.kind}, on {plan.ranks:,} rank{'s' * (plan.ranks > 1)}"


def speed_text(cluster: Cluster, cost: Cost) -> str:
    guess = "" if cluster.measured else " (a guess: nobody has measured these machines)"
    rate = f"{float(f'{1 / cost.token:.3g}'):,.12g} tok/s"
    return f"predicted: {rate}, first token after {seconds_text(cost.first_token)}{guess}"


def bytes_text(count: float) -> str:
    """Three figures and a unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            return f"{float(f'{count:.3g}'):,.12g} {unit}"
        count /= 1024


def gib_text(count: float) -> str:
    return f"{count / 2**30:.1f}" if count >= 2**30 else f"{count / 2**30:.2f}"


def seconds_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\u00b5s", 1e-6)):
        if seconds >= size or size == 1e-6:
            return f"{float(f'{seconds / size:.3g}'):,.12g} {unit}"


def span(values: Iterable, say: Callable = "{:,}".format) -> str:
    """A number, or the range of numbers that differ."""
    low, high = (values := sorted(values))[0], values[-1]
    return say(low) if say(low) == say(high) else f"{say(low)} to {say(high)}"
