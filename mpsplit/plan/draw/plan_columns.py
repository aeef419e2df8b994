"""Which ranks both pictures of a plan draw as one, and what these ranks have.

In: a plan and its cost. Out: StageBlocks of Columns, their contents, the wires between them.

Few ranks are drawn one by one. Among many, equal neighbours are one column, and equal stages one
block. Where that is not enough, the middle of a stage becomes one column of unlike ranks, whose
numbers are then ranges. Invariant: every rank is in one column.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from mpsplit.plan.cluster import MESSAGES, Cluster, Device
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Memory
from mpsplit.plan.shards import Plan, Range, Shard

FEW = 8  # ranks that are drawn one by one
MOST = 12  # columns of a stage

Marks = tuple[object, ...]  # what makes a rank different from its neighbours
Run = tuple[Marks, tuple[int, ...]]  # ranks that follow each other with the same marks


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
    """Stages that are drawn as one, and the columns of their ranks.

    `group` is the ranks of the first of them.
    """

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
class ColumnContents:
    """What the ranks of a column have, as far as a picture says it.

    `used` and `limit`: memory of the rank with the least room. `busy`: seconds of a token that the
    busiest computes. `copied`: whether neighbours in the stage have its KV heads too.
    """

    shards: tuple[Shard, ...]
    devices: tuple[Device, ...]
    used: Memory
    limit: int
    busy: float
    copied: bool

    @property
    def fits(self) -> bool:
        return self.used.total <= self.limit

    def counts(self, part: str) -> list[int]:
        """Of layers, heads, kv_heads, mlp, embed or head: by rank."""
        return [len(getattr(shard, part)) for shard in self.shards]


@dataclass(frozen=True)
class Wires:
    """The pairs of ranks between two columns, or within one.

    How many there are, their bytes a token together, and the longest latency.
    """

    pairs: int
    size: int
    latency: float


def blocks_of(plan: Plan, cluster: Cluster, cost: Cost) -> tuple[StageBlock, ...]:
    many = plan.ranks > FEW

    def marks(rank: int) -> Marks:
        return _marks(plan, cluster, cost, rank) if many else (rank,)

    runs: list[list[Run]] = [[(key, tuple(run)) for key, run in groupby(group, key=marks)] for group in plan.stages]
    seconds = [f"{stage.seconds:.2g}" for stage in cost.stages]

    def stage_marks(stage: int) -> Marks:
        return ([(key, len(run)) for key, run in runs[stage]], seconds[stage]) if many else (stage,)

    equal = [list(stages) for _, stages in groupby(range(len(runs)), key=stage_marks)]
    return tuple(_block(plan, [runs[stage] for stage in stages], stages[0]) for stages in equal)


def _marks(plan: Plan, cluster: Cluster, cost: Cost, rank: int) -> Marks:
    """As far as a picture shows them."""
    shard, device = plan.shards[rank], cluster.devices[rank]
    counts = [len(part) for part in (shard.layers, shard.heads, shard.kv_heads, shard.mlp, shard.embed, shard.head)]
    return (*counts, device.memory_bytes, cost.memory[rank].total, f"{cost.busy[rank]:.2g}")


def _block(plan: Plan, stages: list[list[Run]], first: int) -> StageBlock:
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


def contents_of(plan: Plan, cluster: Cluster, cost: Cost, column: Column) -> ColumnContents:
    tightest = min(column.ranks, key=lambda rank: cluster.devices[rank].memory_bytes - cost.memory[rank].total)
    return ColumnContents(
        shards=tuple(plan.shards[rank] for rank in column.ranks),
        devices=tuple(cluster.devices[rank] for rank in column.ranks),
        used=cost.memory[tightest],
        limit=cluster.devices[tightest].memory_bytes,
        busy=max(cost.busy[rank] for rank in column.ranks),
        copied=copied(plan, column),
    )


def wires_of(blocks: tuple[StageBlock, ...], cluster: Cluster, cost: Cost) -> dict[tuple[int, int], Wires]:
    """By pairs of columns, counted through all blocks, the heaviest first."""
    columns = [column for block in blocks for column in block.columns]
    home = {rank: i for i, column in enumerate(columns) for rank in column.ranks}
    wires: dict[tuple[int, int], Wires] = {}
    for (a, b), size in cost.wire.items():
        between = min(home[a], home[b]), max(home[a], home[b])
        so_far = wires.get(between, Wires(0, 0, 0.0))
        latency = max(so_far.latency, cluster.link(a, b).time(MESSAGES[0]))
        wires[between] = Wires(so_far.pairs + 1, so_far.size + size, latency)
    return dict(sorted(wires.items(), key=lambda item: -item[1].size))
