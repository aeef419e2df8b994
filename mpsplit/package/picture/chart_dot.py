"""A Chart as text for graphviz.

In: a Chart, a title. Out: dot. Invariant: whatever comes from a file is quoted.
"""

from __future__ import annotations

from mpsplit.package.picture.chart import Block, Chart
from mpsplit.package.picture.chart_colours import FILLS
from mpsplit.plan.draw.svg_elements import COLOURS


def dot(chart: Chart, title: str) -> str:
    lines = [
        "digraph rank {",
        f"  label={_quoted(title)}; labelloc=t; rankdir=TB; fontname=Helvetica;",
        "  node [shape=box, style=filled, fontname=Helvetica, fontsize=10];",
        "  edge [arrowsize=0.6];",
        *(line for number, block in enumerate(chart.blocks) for line in _cluster(number, block)),
        *(f"  {_quoted(a)} -> {_quoted(b)};" for a, b in chart.edges),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _cluster(number: int, block: Block) -> list[str]:
    return [
        f"  subgraph cluster_{number} {{",
        f"    label={_quoted(block.heading)}; style=rounded; color={_quoted(COLOURS['soft'])};",
        *(
            f"    {_quoted(node.name)} [label={_quoted(chr(10).join(node.lines))},"
            f" fillcolor={_quoted(COLOURS[FILLS[node.kind]])}];"
            for node in block.nodes
        ),
        "  }",
    ]


def _quoted(text: str) -> str:
    r"""A dot string: only " and \ mean something in it, and a newline is \n."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
