"""A Chart as a picture.

In: a Chart, a title. Out: SVG text, without fonts, scripts or addresses; top to bottom, a row of
boxes a step.

Lines to the next row are straight; a longer one passes the boxes between on a side. Invariant:
whatever comes from a file is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mpsplit.package.picture.chart import Chart, Node
from mpsplit.package.picture.chart_colours import FILLS, INKS, LEGEND
from mpsplit.plan.draw.svg_elements import COLOURS, FONT, LETTER, box, key, label

SIZE, BOLD, LINE = 11, 12.5, 14  # pixels: letters, bold ones as wide as those of, lines of text
PAD, GAP = 8, 18  # around text, between boxes
# from boxes to a line that passes them, more for each row, and of its corners
LANE, STEP, BEND = 8, 4, 8
# above the first block, above a block's boxes, left and right for long lines
TOP, HEAD, SIDE = 76, 26, 70


@dataclass(frozen=True)
class Place:
    """Of a box; `row` counts from the top of the picture."""

    x: float
    y: float
    width: float
    height: float
    row: int

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def svg(chart: Chart, title: str) -> str:
    rows = [[n for n in b.nodes if n.row == r] for b in chart.blocks for r in range(1 + max(n.row for n in b.nodes))]
    widest = max(max(sum(_width(n) + GAP for n in row) for row in rows), _wide(title, 15), 420.0)
    width = widest + 2 * SIDE
    places, frames, bottom = _arranged(chart, width)
    parts = [
        *(box(SIDE / 4, y, width - SIDE / 2, height, "card", 8, "line") for y, height, _ in frames),
        *(label(SIDE / 4 + PAD, y + 17, text, 12, weight=600) for y, _, text in frames),
        *(_line(places[a], places[b], tuple(places.values())) for a, b in chart.edges),
        *(part for block in chart.blocks for node in block.nodes for part in _box(node, places[node.name])),
    ]
    x = SIDE / 4
    for kind, text in LEGEND:
        parts += key(x, 56, FILLS[kind], text)
        x += 36 + _wide(text, 11.5)
    size = f'viewBox="0 0 {width:.0f} {bottom:.0f}" width="{width:.0f}" height="{bottom:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">',
            f"<title>{escape(title)}</title>",
            box(0, 0, width, bottom, "paper", 10),
            label(SIDE / 4, 30, title, 15, weight=600),
            *parts,
            "</svg>\n",
        ]
    )


def _arranged(chart: Chart, width: float) -> tuple[dict[str, Place], list[tuple[float, float, str]], float]:
    """Where boxes are; (top, height, heading) of blocks; the lower edge."""
    places, frames, y, first = {}, [], float(TOP), 0
    for block in chart.blocks:
        top = y
        y += HEAD
        rows = 1 + max(node.row for node in block.nodes)
        for row in range(rows):
            abreast = [node for node in block.nodes if node.row == row]
            height = max(2 * PAD + LINE * len(node.lines) for node in abreast)
            x = (width - sum(_width(node) + GAP for node in abreast) + GAP) / 2
            for node in abreast:
                places[node.name] = Place(x, y, _width(node), height, first + row)
                x += _width(node) + GAP
            y += height + GAP
        first += rows
        frames.append((top, y - top, block.heading))
        y += GAP
    return places, frames, y


def _box(node: Node, at: Place) -> list[str]:
    ink = INKS.get(node.kind, "ink")
    lines = [
        label(at.middle, at.y + PAD + LINE * i + SIZE, text, SIZE, ink, "middle", 0 if i else 600)
        for i, text in enumerate(node.lines)
    ]
    return [box(at.x, at.y, at.width, at.height, FILLS[node.kind], 4, "line"), *lines]


def _line(a: Place, b: Place, places: Sequence[Place]) -> str:
    """Straight to the next row, otherwise past the boxes between: on the right, where no other box
    stands in the way."""
    x, y, to_y = a.middle, a.y + a.height, b.y
    path = f"M{x:.1f} {y:.1f}L{b.middle:.1f} {to_y:.1f}"
    if b.row > a.row + 1:
        passed = [place for place in places if a.row <= place.row <= b.row]
        right = all(place.x <= a.x for place in passed if place.row == a.row)
        side, edge = (1, _right_edge) if right else (-1, _left_edge)
        lane = side * (max(side * edge(place) for place in passed) + LANE + STEP * (b.row - a.row))
        y, to_y, bend = a.y + a.height / 2, b.y + b.height / 2, side * BEND
        path = (
            f"M{edge(a):.1f} {y:.1f}H{lane - bend:.1f}Q{lane:.1f} {y:.1f} {lane:.1f} {y + BEND:.1f}"
            f"V{to_y - BEND:.1f}Q{lane:.1f} {to_y:.1f} {lane - bend:.1f} {to_y:.1f}H{edge(b):.1f}"
        )
    return f'<path d="{path}" fill="none" stroke="{COLOURS["soft"]}"/>'


def _left_edge(place: Place) -> float:
    return place.x


def _right_edge(place: Place) -> float:
    return place.x + place.width


def _wide(text: str, size: float) -> float:
    return len(text) * size * LETTER


def _width(node: Node) -> float:
    return max(_wide(node.lines[0], BOLD), *(_wide(text, SIZE) for text in node.lines)) + 2 * PAD
