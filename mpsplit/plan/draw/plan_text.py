"""A plan as lines of text, for a terminal of 100 columns.

In: a plan, its machines and its cost. Out: one string.

Invariant: no line is longer than 100 characters, and with PLAIN all of them are ASCII.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TextIO

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.draw.plan_columns import (
    Column,
    StageBlock,
    blocks_of,
    bytes_text,
    copied,
    gib_text,
    model_text,
    seconds_text,
    slowest_text,
    span,
    speed_text,
    tightest,
    times_of,
)
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Job, Memory
from mpsplit.plan.shards import Plan

WIDTH, BAR = 100, 18


@dataclass(frozen=True)
class Glyphs:
    """What bars are made of: weights, cache, the rest, free; and what replaces letters that a
    terminal may not have."""

    bar: str
    replaced: dict[str, str]


BLOCKS = Glyphs("\u2588\u2593\u2592\u00b7", {})
PLAIN = Glyphs("#=-.", {"\u00b5": "u"})


def glyphs_for(stream: TextIO) -> Glyphs:
    """Blocks for a terminal that takes UTF-8, ASCII for anything else."""
    takes = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    return BLOCKS if takes and stream.isatty() else PLAIN


def text(
    facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, cost: Cost, name: str = "", glyphs: Glyphs | None = None
) -> str:
    """The lines; `name` is what the model is called, and `glyphs` are those of our standard output
    unless given."""
    glyphs = glyphs or glyphs_for(sys.stdout)
    blocks = blocks_of(plan, cluster, cost)
    shown = glyphs.bar
    lines = [
        model_text(facts, plan, job, name),
        speed_text(cluster, cost),
        "",
        f"{'rank':<15} {'device':<13} {'layers':<7} {'heads':<6} {'KV':<5} {'MLP':<7} {'memory, GiB':<{BAR + 14}} {'busy':>6}",
        *(line for block in blocks for column in block.columns for line in [_rank(plan, cluster, cost, block, column, shown)]),
        f"memory: {shown[0]} weights  {shown[1]} cache  {shown[2]} buffers, process  {shown[3]} free  ! more than there is",
        "KV *: other ranks hold them too; busy: of the time of a token",
        "",
        f"{'stage':<15} {'ranks':<13} {'computing':>12} {'sums':>12} {'handing on':>12} {'together':>12}",
        *(_stage(cost, block) for block in blocks),
        "",
        f"a token: {seconds_text(cost.token)}; "
        + ", ".join(f"{what} {seconds_text(value)}" for _, what, value in times_of(cost) if value),
        f"{slowest_text(cost)}; {bytes_text(cost.payload)} handed over a token",
    ]  # fmt: skip
    whole = "\n".join(_cut(line.rstrip(), WIDTH) for line in lines) + "\n"
    for letter, plain in glyphs.replaced.items():
        whole = whole.replace(letter, plain)
    return whole if glyphs is BLOCKS else whole.encode("ascii", "replace").decode()


def _rank(plan: Plan, cluster: Cluster, cost: Cost, block: StageBlock, column: Column, shown: str) -> str:
    shards = [plan.shards[rank] for rank in column.ranks]
    devices = [cluster.devices[rank] for rank in column.ranks]
    used, limit = tightest(cluster, cost, column)
    count = lambda part: span((len(getattr(shard, part)) for shard in shards), "{:,}".format).replace(" to ", "-")  # noqa: E731
    who = column.short + (f" x{len(column.ranks)}" if len(column.ranks) > 1 else "")
    name = devices[0].name + (" ..." if len(devices) > 1 else "")
    fits = "" if used.total <= limit else "!"
    memory = f"{_bar(used, limit, shown)} {gib_text(used.total)} of {gib_text(limit)}{fits}"
    kv_heads = count("kv_heads") + "*" * copied(plan, column)
    busy = max(cost.busy[rank] for rank in column.ranks) / cost.token
    return (
        f"{_cut(who, 15):<15} {_cut(name, 13):<13} {block.layers!s:<7} {count('heads'):<6} {kv_heads:<5}"
        f" {count('mlp'):<7} {memory:<{BAR + 14}} {busy:>6.0%}"
    )


def _bar(used: Memory, limit: int, shown: str) -> str:
    """BAR characters for the limit, full where it is passed; whatever there is shows up to the
    nearest character."""
    pieces = used.weights, used.cache, used.total - used.weights - used.cache
    stops = [round(BAR * min(1.0, sum(pieces[: i + 1]) / max(limit, used.total))) for i in range(3)]
    return "".join(glyph * (stop - start) for glyph, start, stop in zip(shown, [0, *stops], [*stops, BAR], strict=True))


def _stage(cost: Cost, block: StageBlock) -> str:
    """The seconds of one stage; equal ones follow each other, so one stands for all."""
    stage = cost.stages[block.stages.start]
    each = f" x{len(block.stages)}" if len(block.stages) > 1 else ""
    name = f"{block.stages.start}{f'-{block.stages.stop - 1}' if each else ''}{each}"
    ranks = Column(block.group).short
    parts = (stage.compute, stage.collectives, stage.handing_on, stage.seconds)
    return f"{name:<15} {_cut(ranks, 13):<13} " + " ".join(f"{seconds_text(part):>12}" for part in parts)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."
