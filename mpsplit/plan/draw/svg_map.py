"""The map in the picture of a plan: the model from its embedding down to its head, rank by rank.

In: a Picture. Out: SVG elements.

A rank's area is as wide as its share of a layer and as high as its layers. Below are the links
between columns. Invariant: the areas of a block fill its band.
"""

from __future__ import annotations

from mpsplit.plan.draw.plan_columns import Column, StageBlock, Wires, wires_of
from mpsplit.plan.draw.plan_places import LEFT, PAD, ROW, Picture
from mpsplit.plan.draw.plan_words import bytes_text, handed_text, seconds_text, sums_text
from mpsplit.plan.draw.svg_elements import COLOURS, box, label, outline, rule

LANES = 12  # links between columns that are drawn
LANE = 26  # pixels between two of them


def axis(picture: Picture) -> list[str]:
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


def stage_area(picture: Picture, number: int) -> list[str]:
    """The areas of a block, the bracket over them, and the arrow to the next."""
    block, (top, bottom) = picture.blocks[number], picture.bands[number]
    columns = picture.of(block)
    y = top - (ROW if number == 0 else 0)
    left, right = columns[0][0] + PAD, columns[-1][0] + picture.wide - PAD
    summing = len(block.group) > 1
    parts = [
        label(left, y - 27, f"{block.name}, {block.holds}", 11.5, weight=600),
        label(left, y - 13, sums_text(picture.cost, block), 11, "talk" if summing else "soft"),
    ]
    if summing:
        parts.append(outline(f"M{left} {y - 2}v-5H{right}v5", "talk", 1.5))
    for x, column in columns:
        parts += _area(picture, x + picture.wide / 2, column, block, top, bottom)
    return parts + (_arrow(picture, number) if number + 1 < len(picture.blocks) else [])


def _area(picture: Picture, x: float, column: Column, block: StageBlock, top: float, bottom: float) -> list[str]:
    """What a column has of a layer, and above and below it its rows of the embedding and the head.

    Attention is to the left of the middle, MLP to the right, keys and values between.
    """
    contents, scale = picture.contents(column), picture.scale
    embed, head = (scale * max(contents.counts(end)) / picture.facts.vocabulary for end in ("embed", "head"))
    parts = []
    if embed:
        parts.append(box(x - embed, top - ROW + 2, 2 * embed, ROW - 4, "rows", 3))
    if head:
        parts.append(box(x - head, bottom + 2, 2 * head, ROW - 4, "rows", 3))
    if not len(block.layers):
        return [box(x - embed - head, top, 2 * (embed + head), bottom - top, "paper", 3, "line"), *parts]
    heads = _width(picture, contents.counts("heads"), picture.facts.heads)
    mlp, height = _width(picture, contents.counts("mlp"), picture.facts.mlp), bottom - top
    keys = min(9.0, heads / 2)
    parts += [box(x - heads, top, heads, height, "attention"), box(x, top, mlp, height, "mlp")]
    parts.append(box(x - keys, top, keys, height, "keys"))
    if contents.copied:
        parts.append(
            f'<rect x="{x - keys:.1f}" y="{top:.1f}" width="{keys:.1f}" height="{height:.1f}" fill="url(#copied)"/>'
        )
    if height / len(block.layers) >= 4:
        parts.append(_lines(x - heads, x + mlp, top, bottom, len(block.layers), 0.8))
    if len(block.stages) > 1:
        parts.append(_lines(x - heads, x + mlp, top, bottom, len(block.stages), 3))
    return parts


def _width(picture: Picture, counts: list[int], whole: int) -> float:
    """Of half an area: the ranks of a column on average."""
    return picture.scale * sum(counts) / len(counts) / whole


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
    return [
        outline(f"M{start:.1f} {y + 2:.1f}v14H{end - 6:.1f}", "handing", 2),
        f'<path d="M{end:.1f} {y + 16:.1f}l-8 -4.5v9z" fill="{COLOURS["handing"]}"/>',
        label(start + 2, y + 31, handed_text(facts, picture.plan, block.stages.stop - 1), 11, "handing"),
    ]


def links(picture: Picture, y: float) -> tuple[float, list[str]]:
    """A line for each pair of columns that talk: the lower edge, and the elements.

    Pairs that do not overlap share a lane.
    """
    wires = wires_of(picture.blocks, picture.cluster, picture.cost)
    if not wires:
        return y - 20, []
    centres = [x + picture.wide / 2 for x in picture.lefts]
    parts = [label(LEFT - 12, y + 4, "links", 11.5, "soft", "end")]
    lanes: list[list[tuple[float, float]]] = []
    for (a, b), wire in list(wires.items())[:LANES]:
        edge = picture.wide / 2 - PAD if a == b else 0.0  # pairs within a column take its width
        start, stop = centres[a] - edge, centres[b] + edge
        free = [all(stop < s - 4 or start > e + 4 for s, e in taken) for taken in lanes]
        lane = free.index(True) if True in free else len(lanes)
        lanes += [[]] if lane == len(lanes) else []
        lanes[lane].append((start, stop))
        parts += _link(start, stop, y + LANE * lane, wire)
    if len(wires) > LANES:
        hidden = list(wires.values())[LANES:]
        lanes.append([])
        text = f"and {len(hidden)} more between columns, {bytes_text(sum(w.size for w in hidden))} a token"
        parts.append(label(LEFT + PAD, y + LANE * len(lanes) - 22, text, 11, "soft"))
    return y + LANE * (len(lanes) - 1) + 8, parts


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
