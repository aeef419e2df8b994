"""Where things are in the picture of a plan (plan_svg.py).

In: a plan and its cost. Out: a Picture, in pixels.

Invariant: columns do not overlap, and the bands of the blocks follow each other without a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.draw.plan_columns import Column, ColumnContents, StageBlock, blocks_of, contents_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan

WIDE, WIDEST, PAD = 222, 400, 14  # of a column, at least and at most; its margin
BETWEEN, APART = 10, 30  # columns of a stage, columns of two stages
LEFT, RIGHT, NARROWEST = 92, 24, 900  # margins; the narrowest picture
# heights: of the embedding and the head, of a stage at the least, of all layers
ROW, BAND, MAP = 24, 64, 330
CARDS = 150  # where the columns begin


@dataclass(frozen=True)
class Picture:
    """What is drawn, and where.

    `lefts`: the left edge of each column; all are `wide`. `bands`: top and bottom of each block.
    """

    facts: ModelFacts
    plan: Plan
    cluster: Cluster
    job: Job
    cost: Cost
    blocks: tuple[StageBlock, ...]
    wide: float  # of a column
    lefts: tuple[float, ...]
    bands: tuple[tuple[float, float], ...]
    scale: float  # pixels of half an area for a rank that holds all of a layer

    @property
    def columns(self) -> list[tuple[float, Column]]:
        """Left edges and columns."""
        return list(zip(self.lefts, (column for block in self.blocks for column in block.columns), strict=True))

    def contents(self, column: Column) -> ColumnContents:
        return contents_of(self.plan, self.cluster, self.cost, column)

    def of(self, block: StageBlock) -> list[tuple[float, Column]]:
        first = sum(len(b.columns) for b in self.blocks[: self.blocks.index(block)])
        return self.columns[first : first + len(block.columns)]

    @property
    def width(self) -> int:
        return max(NARROWEST, int(self.lefts[-1] + self.wide + RIGHT))

    @property
    def bottom(self) -> float:
        """Of the map of the model."""
        return self.bands[-1][1] + ROW


def arranged(facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, cost: Cost) -> Picture:
    blocks = blocks_of(plan, cluster, cost)
    wide = _wide(blocks)
    places = wide, _lefts(blocks, wide), _bands(blocks), _scale(facts, plan, wide)
    return Picture(facts, plan, cluster, job, cost, blocks, *places)


def _wide(blocks: Sequence[StageBlock]) -> float:
    """Few columns share the width of the picture."""
    count = sum(len(block.columns) for block in blocks)
    return min(WIDEST, max(WIDE, (NARROWEST - LEFT - RIGHT + BETWEEN - APART * (len(blocks) - 1)) / count - BETWEEN))


def _lefts(blocks: Sequence[StageBlock], wide: float) -> tuple[float, ...]:
    lefts, x = [], float(LEFT)
    for block in blocks:
        lefts += [x + i * (wide + BETWEEN) for i in range(len(block.columns))]
        x = lefts[-1] + wide + APART
    return tuple(lefts)


def _bands(blocks: Sequence[StageBlock]) -> tuple[tuple[float, float], ...]:
    """One under the other, as high as their layers, but high enough for their words."""
    layers = sum(len(block.layers) for block in blocks)
    bands: list[tuple[float, float]] = []
    y: float = CARDS + 104 + ROW
    for block in blocks:
        height = max(BAND, MAP * len(block.layers) / layers)
        bands.append((y, y + height))
        y += height
    return tuple(bands)


def _scale(facts: ModelFacts, plan: Plan, wide: float) -> float:
    wholes = {"heads": facts.heads, "mlp": facts.mlp, "embed": facts.vocabulary, "head": facts.vocabulary}
    return (wide / 2 - PAD) / max(len(getattr(s, part)) / whole for s in plan.shards for part, whole in wholes.items())
