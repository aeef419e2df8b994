"""Rectangles, lines and words as SVG.

In: places in pixels, names of COLOURS, text. Out: elements. Invariant: all text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

COLOURS = {
    "paper": "#faf9f6", "card": "#ffffff", "line": "#dcd9d2", "ink": "#23303a", "soft": "#66727b",
    "attention": "#6d9dc5", "keys": "#2f5d86", "mlp": "#e3b86b", "rows": "#9a8fbf",
    "talk": "#b0533f", "handing": "#7d6b9e", "compute": "#7fa8a0", "orders": "#b9b4a8",
    "weights": "#5f7d8c", "cache": "#a3bfa8", "rest": "#c3ccd1", "free": "#ebe9e3", "over": "#c0392b",
}  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
LETTER = 0.6  # width of a letter, as a part of its height


HATCH = (
    '<defs><pattern id="copied" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2.5" height="6" fill="#ffffff" fill-opacity="0.85"/></pattern></defs>'
)


def box(x: float, y: float, width: float, height: float, fill: str, radius: float = 0, edge: str = "") -> str:
    border = f' stroke="{COLOURS[edge]}"' if edge else ""
    round_ = f' rx="{radius}"' if radius else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{round_}'
        f' fill="{COLOURS[fill]}"{border}/>'
    )


def rule(x: float, y: float, to_x: float, to_y: float, stroke: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}" stroke="{COLOURS[stroke]}"{dashed}/>'


def outline(path: str, stroke: str, width: float) -> str:
    return f'<path d="{path}" fill="none" stroke="{COLOURS[stroke]}" stroke-width="{width}"/>'


def label(x: float, y: float, text: str, size: float, fill: str = "ink", anchor: str = "", weight: int = 0) -> str:
    more = (f' text-anchor="{anchor}"' if anchor else "") + (f' font-weight="{weight}"' if weight else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{COLOURS[fill]}"{more}>{escape(text)}</text>'


def stack(
    x: float, y: float, width: float, height: float, pieces: Iterable[tuple[str, float]], whole: float
) -> list[str]:
    """A bar for `whole`, with its pieces from the left."""
    parts = [box(x, y, width, height, "free", 2)]
    for colour, value in pieces:
        parts += [box(x, y, width * value / whole, height, colour)] if value else []
        x += width * value / whole
    return parts


def clip(text: str, width: float, size: float) -> str:
    """As much of a name as there is room for."""
    most = int(width / (size * LETTER))
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def key(x: float, y: float, colour: str, text: str) -> list[str]:
    """A colour and what it stands for."""
    return [box(x, y - 9, 10, 10, colour, 2, "line"), label(x + 15, y, text, 11.5, "soft")]
