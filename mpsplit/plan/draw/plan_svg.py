"""A picture of a plan that explains itself.

In: a plan, its machines and its cost. Out: SVG text, without fonts, scripts or addresses.

Columns are ranks, the way down is the way of a token: embedding, layers, head. A rank's area is as
wide as its share of a layer and as high as its layers. Invariant: whatever text comes from outside
is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.draw.plan_columns import (
    Column,
    StageBlock,
    Wires,
    bytes_text,
    copied,
    gib_text,
    handed_text,
    model_text,
    seconds_text,
    slowest,
    slowest_text,
    span,
    speed_text,
    sums_text,
    tightest,
    times_of,
    wires_of,
)
from mpsplit.plan.draw.plan_places import CARDS, LEFT, PAD, RIGHT, ROW, Picture, arranged
from mpsplit.plan.draw.svg_elements import COLOURS, FONT, HATCH, LETTER, box, clip, key, label, rule, stack
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Plan, Shard

LANES = 12  # links between columns that are drawn

LEGEND = (
    ("attention", "attention heads"), ("keys", "their keys and values"), ("mlp", "MLP columns"), ("rows", "embedding, head"),
    ("weights", "memory: weights"), ("cache", "cache of the context"), ("rest", "buffers, process"), ("free", "free memory"),
)  # fmt: skip

READ = (
    (
        "A column is a rank: a process with its own memory. Its area is as wide as its share of each layer, and as high"
        " as its layers."
    ),
    (
        "A token goes down through all layers. Ranks of one stage add their parts up: twice a layer, and once for the"
        " embedding."
    ),
    (
        "Links: bytes a token, both ways, and the time of a short message. Striped: keys and values that others hold"
        " too. Red frame: slowest."
    ),
)


def svg(facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, cost: Cost, name: str = "") -> str:
    """The picture; `name` is what the model is called."""
    picture = arranged(facts, plan, cluster, job, cost)
    facts_end, cards = _cards(picture)
    links_end, links = _links(picture, facts_end + 34)
    parts = [
        *_headline(picture, name),
        *cards,
        *_hosts(picture),
        *_axis(picture),
        *(part for i in range(len(picture.blocks)) for part in _stage(picture, i)),
        *links,
        *_legend(links_end + 30),
    ]
    height = links_end + 128
    what = f"{model_text(facts, plan, job, name)}; {speed_text(cluster, cost)}"
    size = f'viewBox="0 0 {picture.width} {height:.0f}" width="{picture.width}" height="{height:.0f}"'
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc"'
                f' font-family="{FONT}">'
            ),
            f'<title id="title">{escape(what)}</title>',
            f'<desc id="desc">{escape(_description(picture))}</desc>',
            HATCH,
            box(0, 0, picture.width, height, "paper", 10),
            *parts,
            "</svg>\n",
        ]
    )


# -- the parts, from top to bottom ---------------------------------------------------------------


def _headline(picture: Picture, name: str) -> list[str]:
    cost, end = picture.cost, picture.width - RIGHT
    parts = [
        label(24, 36, model_text(picture.facts, picture.plan, picture.job, name), 20, weight=600),
        label(24, 60, speed_text(picture.cluster, cost), 14, weight=600),
        label(24, 80, f"{slowest_text(cost)}; {bytes_text(cost.payload)} handed over a token", 12, "soft"),
        *stack(24, 92, end - 24, 10, [(colour, value) for colour, _, value in times_of(cost)], cost.token),
        label(24, 121, f"a token: {seconds_text(cost.token)}", 11.5, "soft"),
    ]
    x = 160.0
    for colour, said, value in times_of(cost):
        if value:
            text = f"{said} {seconds_text(value)}"
            parts += key(x, 121, colour, text)
            x += 30 + len(text) * 11.5 * LETTER
    return parts


def _cards(picture: Picture) -> tuple[float, list[str]]:
    """A card for each column: its names above the map, its numbers below. The lower edge, and the
    parts."""
    parts, bottom, last = [], picture.bottom + 178, _marked(picture.cost)
    for x, column in picture.columns:
        mark = "talk" if last.intersection(column.ranks) else "line"
        parts.append(box(x, CARDS, picture.wide, bottom - CARDS, "card", 8, mark))
        count = f" \u00d7 {len(column.ranks):,}" if len(column.ranks) > 1 else ""
        parts.append(label(x + PAD, CARDS + 24, column.name + count, 13.5, weight=600))
        parts.append(
            label(x + PAD, CARDS + 41, clip(_devices(picture, column), picture.wide - 2 * PAD, 12), 12, "soft")
        )
        parts += _numbers(picture, x + PAD, picture.bottom + 24, column)
    return bottom, parts


def _marked(cost: Cost) -> set[int]:
    """The slowest ranks, if others are faster."""
    ranks = slowest(cost)
    return ranks if len(ranks) < len(cost.busy) else set()


def _numbers(picture: Picture, x: float, y: float, column: Column) -> list[str]:
    """Shares, the memory bar and the busy bar of a column."""
    facts, cost, width = picture.facts, picture.cost, picture.wide - 2 * PAD
    used, limit = tightest(picture.cluster, cost, column)
    rest = used.staging + used.graph + used.process
    busy = max(cost.busy[rank] for rank in column.ranks)
    fits = used.total <= limit
    pieces, whole = [("weights", used.weights), ("cache", used.cache), ("rest", rest)], max(limit, used.total)
    shares = _shares(facts, [picture.plan.shards[rank] for rank in column.ranks], copied(picture.plan, column))
    return [
        *(label(x, y + 16 * i, text, 11.5) for i, text in enumerate(shares)),
        label(x, y + 74, f"{gib_text(used.total)} of {gib_text(limit)} GiB" + ("" if fits else ": does not fit"),
              12, "ink" if fits else "over", weight=600),
        *stack(x, y + 80, width, 12, pieces, whole),
        *([] if fits else [box(x + width * limit / whole, y + 77, 3, 18, "over")]),
        label(x, y + 106, f"{gib_text(used.weights)} weights, {gib_text(used.cache)} cache, {gib_text(rest)} rest", 10.5, "soft"),
        *stack(x, y + 116, width, 6, [("compute", busy)], cost.token),
        label(x, y + 135, f"computes {seconds_text(busy)}, {busy / cost.token:.0%} of a token", 10.5, "soft"),
    ]  # fmt: skip


def _shares(facts: ModelFacts, shards: Sequence[Shard], shared: bool) -> list[str]:
    """Four lines at most."""
    counts = lambda part: [len(getattr(shard, part)) for shard in shards]  # noqa: E731
    lines = []
    percent = lambda part, whole: f"{100 * max(part) / whole:.3g}%"  # noqa: E731
    if any(counts("layers")):
        for part, what, whole in (
            ("heads", "heads", facts.heads), ("kv_heads", "KV heads", facts.kv_heads), ("mlp", "MLP", facts.mlp),
        ):  # fmt: skip
            more = (", copied" if shared else "") if part == "kv_heads" else f", {percent(counts(part), whole)}"
            lines.append(f"{what} {span(counts(part))} of {whole:,}{more}")
    rows = {"embedding": counts("embed"), "head": counts("head")}
    said = [f"{what} {percent(part, facts.vocabulary)}" for what, part in rows.items() if any(part)]
    return lines + ([", ".join(said)] if said else [])


def _hosts(picture: Picture) -> list[str]:
    """A line over neighbours on one host, and its name, where the devices do not have it
    already."""
    parts, runs, names = [], [], {device.name for device in picture.cluster.devices}
    for x, column in picture.columns:
        hosts = {picture.cluster.devices[rank].host for rank in column.ranks}
        if runs and runs[-1][0] == hosts and len(hosts) == 1:
            runs[-1][2] = x
        else:
            runs.append([hosts, x, x])
    for hosts, first, last in runs:
        text = f"host {min(hosts)}" if len(hosts) == 1 else f"{len(hosts):,} hosts"
        parts.append(box(first, CARDS - 6, last + picture.wide - first, 3, "soft", 1.5))
        if not hosts <= names:
            parts.append(
                label(first + PAD, CARDS + 57, clip(text, last + picture.wide - first - 2 * PAD, 11), 11, "soft")
            )
    return parts


def _axis(picture: Picture) -> list[str]:
    """Names of the rows at the left, and thin lines where a stage ends."""
    top, right = picture.bands[0][0] - ROW, picture.lefts[-1] + picture.wide
    parts = [label(LEFT - 12, top + 16, "embedding", 11.5, "soft", "end")]
    for block, (start, stop) in zip(picture.blocks, picture.bands, strict=True):
        parts.append(rule(LEFT - 6, start, right, start, "line", dash="2 4"))
        if len(block.layers):
            parts.append(label(LEFT - 12, start + 14, f"layer {block.layers.start}", 11.5, "soft", "end"))
        if len(block.layers) > 1:
            parts.append(label(LEFT - 12, stop - 6, f"layer {block.layers.stop - 1}", 11.5, "soft", "end"))
    parts.append(rule(LEFT - 6, picture.bottom - ROW, right, picture.bottom - ROW, "line", dash="2 4"))
    return [*parts, label(LEFT - 12, picture.bottom - 8, "head", 11.5, "soft", "end")]


def _stage(picture: Picture, number: int) -> list[str]:
    """The areas of a block, the bracket over them, and the arrow to the next."""
    block, (top, bottom) = picture.blocks[number], picture.bands[number]
    columns = picture.of(block)
    y = top - (ROW if number == 0 else 0)
    left, right = columns[0][0] + PAD, columns[-1][0] + picture.wide - PAD
    parts = [
        label(left, y - 27, f"{block.name}, {block.holds}", 11.5, weight=600),
        label(left, y - 13, sums_text(picture.cost, block), 11, "talk" if len(block.group) > 1 else "soft"),
    ]  # fmt: skip
    if len(block.group) > 1:
        parts.append(
            f'<path d="M{left} {y - 2}v-5H{right}v5" fill="none" stroke="{COLOURS["talk"]}" stroke-width="1.5"/>'
        )
    for x, column in columns:
        parts += _area(picture, x + picture.wide / 2, column, block, top, bottom)
    return parts + (_arrow(picture, number) if number + 1 < len(picture.blocks) else [])


def _area(picture: Picture, x: float, column: Column, block: StageBlock, top: float, bottom: float) -> list[str]:
    """Attention to the left of the middle, MLP to the right, keys and values between; rows of the
    embedding above, of the head below."""
    facts, shards = picture.facts, [picture.plan.shards[rank] for rank in column.ranks]
    part = lambda name, whole: picture.scale * sum(len(getattr(s, name)) for s in shards) / len(shards) / whole  # noqa: E731
    most = lambda name: picture.scale * max(len(getattr(s, name)) for s in shards) / facts.vocabulary  # noqa: E731
    embed, head, parts = most("embed"), most("head"), []
    if embed:
        parts.append(box(x - embed, top - ROW + 2, 2 * embed, ROW - 4, "rows", 3))
    if head:
        parts.append(box(x - head, bottom + 2, 2 * head, ROW - 4, "rows", 3))
    if not len(block.layers):
        return [box(x - embed - head, top, 2 * (embed + head), bottom - top, "paper", 3, "line"), *parts]
    heads, mlp, height = part("heads", facts.heads), part("mlp", facts.mlp), bottom - top
    keys = min(9.0, heads / 2)
    parts += [box(x - heads, top, heads, height, "attention"), box(x, top, mlp, height, "mlp")]
    parts.append(box(x - keys, top, keys, height, "keys"))
    if copied(picture.plan, column):
        parts.append(
            f'<rect x="{x - keys:.1f}" y="{top:.1f}" width="{keys:.1f}" height="{height:.1f}" fill="url(#copied)"/>'
        )
    step = height / len(block.layers)
    if step >= 4:
        parts.append(_lines(x - heads, x + mlp, top, bottom, len(block.layers), 0.8))
    if len(block.stages) > 1:
        parts.append(_lines(x - heads, x + mlp, top, bottom, len(block.stages), 3))
    return parts


def _lines(left: float, right: float, top: float, bottom: float, parts: int, width: float) -> str:
    """Across an area, between equal parts of it."""
    ys = (top + (bottom - top) * i / parts for i in range(1, parts))
    path = "".join(f"M{left:.1f} {y:.1f}H{right:.1f}" for y in ys)
    return f'<path d="{path}" stroke="{COLOURS["card"]}" stroke-width="{width}"/>'


def _arrow(picture: Picture, number: int) -> list[str]:
    """From under the last area of a block to the first area of the next."""
    block, after = picture.blocks[number], picture.blocks[number + 1]
    start = picture.of(block)[-1][0] + picture.wide / 2
    left, column = picture.of(after)[0]
    y = picture.bands[number][1]
    shard, facts = picture.plan.shards[column.ranks[0]], picture.facts
    half = picture.scale * (len(shard.heads) / facts.heads or len(shard.head) / facts.vocabulary)
    end = left + picture.wide / 2 - half - 3
    text = handed_text(picture.facts, picture.plan, block.stages.stop - 1)
    return [
        (
            f'<path d="M{start:.1f} {y + 2:.1f}v14H{end - 6:.1f}" fill="none" stroke="{COLOURS["handing"]}"'
            ' stroke-width="2"/>'
        ),
        f'<path d="M{end:.1f} {y + 16:.1f}l-8 -4.5v9z" fill="{COLOURS["handing"]}"/>',
        label(start + 2, y + 31, text, 11, "handing"),
    ]


def _links(picture: Picture, y: float) -> tuple[float, list[str]]:
    """A line for each pair of columns that talk; pairs that do not overlap share a height. The
    lower edge, and the parts."""
    wires = wires_of(picture.blocks, picture.cluster, picture.cost)
    if not wires:
        return y - 20, []
    centres = [x + picture.wide / 2 for x in picture.lefts]
    parts, lanes = [label(LEFT - 12, y + 4, "links", 11.5, "soft", "end")], []
    for (a, b), wire in list(wires.items())[:LANES]:
        edge = picture.wide / 2 - PAD if a == b else 0.0  # pairs within a column take its width
        start, stop = centres[a] - edge, centres[b] + edge
        free = [all(stop < s - 4 or start > e + 4 for s, e in taken) for taken in lanes]
        lane = free.index(True) if True in free else len(lanes)
        lanes += [[]] if lane == len(lanes) else []
        lanes[lane].append((start, stop))
        parts += _link(start, stop, y + 26 * lane, wire)
    if len(wires) > LANES:
        hidden = list(wires.values())[LANES:]
        lanes.append([])
        text = f"and {len(hidden)} more between columns, {bytes_text(sum(w.size for w in hidden))} a token"
        parts.append(label(LEFT + PAD, y + 26 * len(lanes) - 22, text, 11, "soft"))
    return y + 26 * (len(lanes) - 1) + 8, parts


def _link(start: float, stop: float, y: float, wire: Wires) -> list[str]:
    count = f"{wire.pairs:,} pairs: " if wire.pairs > 1 else ""
    text = f"{count}{bytes_text(wire.size)}, {seconds_text(wire.latency)}"
    ends = "".join(f'<circle cx="{x:.1f}" cy="{y}" r="3" fill="{COLOURS["talk"]}"/>' for x in (start, stop))
    tip = f"{wire.size:,} bytes a token, {seconds_text(wire.latency)} latency"
    return [
        f"<g><title>{tip}</title>",
        rule(start, y, stop, y, "talk"),
        ends,
        label((start + stop) / 2, y - 5, text, 11, "talk", "middle"),
        "</g>",
    ]


def _legend(y: float) -> list[str]:
    keys = [
        part for i, (colour, text) in enumerate(LEGEND) for part in key(24 + i % 4 * 190, y + i // 4 * 20, colour, text)
    ]
    return keys + [label(24, y + 46 + 17 * i, text, 11.5, "soft") for i, text in enumerate(READ)]


# -- words ---------------------------------------------------------------------------------------


def _devices(picture: Picture, column: Column) -> str:
    devices = [picture.cluster.devices[rank] for rank in column.ranks]
    return devices[0].name if len(devices) == 1 else f"{devices[0].name} ... {devices[-1].name}"


def _description(picture: Picture) -> str:
    """For those who do not see it, as short as a person listens."""
    heads = lambda column: span(len(picture.plan.shards[rank].heads) for rank in column.ranks)  # noqa: E731
    columns = [f"{c.name}: {block.holds}, heads {heads(c)}" for block in picture.blocks for c in block.columns]
    return f"{slowest_text(picture.cost)}; " + "; ".join(columns) + "."
