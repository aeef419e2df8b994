"""`mpsplit inspect --graph`: a rank's graph as text, and the memory that its values take.

In: the graph. Out: text or a plain dict.
"""

from __future__ import annotations

from typing import Any

from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.shown.arena import Arena, plan_arena
from mpsplit.graph.typed_graph import Graph

STEPS = (1, 128)  # rows of a step: one token, and of a prompt


def described_graph(graph: Graph, rank: int, context: int) -> dict[str, Any]:
    """With arenas for steps after which the context is full."""
    steps = [min(rows, context) for rows in STEPS]
    return {
        "rank": rank,
        "graph": graph_text(graph),
        "arenas": [
            {"rows": rows, "positions": context, "bytes": arena.bytes, "bound": arena.bound}
            for rows, arena in zip(steps, (_arena(graph, rows, context) for rows in steps), strict=True)
        ],
    }


def _arena(graph: Graph, rows: int, positions: int) -> Arena:
    return plan_arena(graph, {"rows": rows, "answers": 1, "past": positions - rows})


def graph_as_text(described: dict[str, Any]) -> str:
    lines = [
        f"# memory of a step of {a['rows']} rows at {a['positions']} positions: {a['bytes']:,} bytes in one arena,"
        f" at the least {a['bound']:,}"
        for a in described["arenas"]
    ]
    return str(described["graph"]) + "\n".join(lines)
