"""A plan as lines of text, for a terminal of 100 columns.

In: a plan, its machines and its cost. Out: one string.

Invariant: no line is longer than 100 characters, and with PLAIN all of them are ASCII.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.draw.plan_columns import (
    Column,
    StageBlock,
    blocks_of,
    contents_of,
)
from mpsplit.plan.draw.plan_words import (
    bytes_text,
    gib_text,
    model_text,
    seconds_text,
    slowest_text,
    span,
    speed_text,
    times_of,
)
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Job, Memory, arena_bytes
from mpsplit.plan.shards import Plan

WIDTH, BAR = 100, 18


@dataclass(frozen=True)
class Glyphs:
    """What bars are made of: weights, cache, the rest, free.

    `replaced`: letters that a terminal may not have, and what stands for them.
    """

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
    """The lines; `name` is what the model is called.

    `glyphs` are those of our standard output unless given.
    """
    glyphs = glyphs or glyphs_for(sys.stdout)
    blocks = blocks_of(plan, cluster, cost)
    times = ", ".join(f"{what} {seconds_text(value)}" for _, what, value in times_of(cost) if value)
    lines = [
        model_text(facts, plan, job, name),
        speed_text(cluster, cost),
        "",
        _row("rank", "device", "layers", "heads", "KV", "MLP", "memory, GiB", "busy"),
        *(_rank(plan, cluster, cost, block, column, glyphs.bar) for block in blocks for column in block.columns),
        "memory: {} weights  {} cache  {} buffers, process  {} free  ! more than there is".format(*glyphs.bar),
        f"of the buffers, {_arena(facts, plan, job)} are for all values of a step of {job.rows} tokens, in one arena",
        "KV *: other ranks hold them too; busy: of the time of a token",
        "",
        _stage_row("stage", "ranks", ("computing", "sums", "handing on", "together")),
        *(_stage(cost, block) for block in blocks),
        "",
        f"a token: {seconds_text(cost.token)}; {times}",
        f"{slowest_text(cost)}; {bytes_text(cost.payload)} handed over a token",
    ]
    whole = "\n".join(_cut(line.rstrip(), WIDTH) for line in lines) + "\n"
    for letter, plain in glyphs.replaced.items():
        whole = whole.replace(letter, plain)
    return whole if glyphs is BLOCKS else whole.encode("ascii", "replace").decode()


def _arena(facts: ModelFacts, plan: Plan, job: Job) -> str:
    """Of the rank that has most."""
    return bytes_text(max(arena_bytes(facts, shard, job.rows, job.fused) for shard in plan.shards))


def _rank(plan: Plan, cluster: Cluster, cost: Cost, block: StageBlock, column: Column, bar: str) -> str:
    contents = contents_of(plan, cluster, cost, column)
    heads, kv_heads, mlp = (span(contents.counts(part)).replace(" to ", "-") for part in ("heads", "kv_heads", "mlp"))
    several = len(column.ranks) > 1
    room = f"{gib_text(contents.used.total)} of {gib_text(contents.limit)}"
    return _row(
        column.short + (f" x{len(column.ranks)}" if several else ""),
        contents.devices[0].name + (" ..." if several else ""),
        str(block.layers),
        heads,
        kv_heads + "*" * contents.copied,
        mlp,
        f"{_bar(contents.used, contents.limit, bar)} {room}" + ("" if contents.fits else "!"),
        f"{contents.busy / cost.token:.0%}",
    )


def _row(rank: str, device: str, layers: str, heads: str, kv_heads: str, mlp: str, memory: str, busy: str) -> str:
    return (
        f"{_cut(rank, 15):<15} {_cut(device, 13):<13} {layers:<7} {heads:<6} {kv_heads:<5} {mlp:<7}"
        f" {memory:<{BAR + 14}} {busy:>6}"
    )


def _bar(used: Memory, limit: int, bar: str) -> str:
    """BAR characters for the limit, full where it is passed; each piece to the nearest one."""
    pieces = used.weights, used.cache, used.total - used.weights - used.cache
    stops = [round(BAR * min(1.0, sum(pieces[: i + 1]) / max(limit, used.total))) for i in range(3)]
    return "".join(glyph * (stop - start) for glyph, start, stop in zip(bar, [0, *stops], [*stops, BAR], strict=True))


def _stage(cost: Cost, block: StageBlock) -> str:
    """The seconds of one stage; equal ones follow each other, so one stands for all."""
    stage, count = cost.stages[block.stages.start], len(block.stages)
    name = f"{block.stages.start}-{block.stages.stop - 1} x{count}" if count > 1 else str(block.stages.start)
    parts = (stage.compute, stage.collectives, stage.handing_on, stage.seconds)
    return _stage_row(name, Column(block.group).short, [seconds_text(part) for part in parts])


def _stage_row(name: str, ranks: str, parts: Sequence[str]) -> str:
    return f"{name:<15} {_cut(ranks, 13):<13} " + " ".join(f"{part:>12}" for part in parts)


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."
