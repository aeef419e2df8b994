"""`mpsplit inspect --graph`: a rank's graph as text, and the memory that a step takes.

In: the graph. Out: text or a plain dict.
"""

from __future__ import annotations

from typing import Any

from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.shown.arena import engine_arena
from mpsplit.graph.typed_graph import Graph

STEPS = (1, 128)  # rows of a step: one token, and of a prompt


def described_graph(graph: Graph, rank: int, context: int) -> dict[str, Any]:
    """With arenas of steps whose last row is answered."""
    arenas = [(rows, engine_arena(graph, rows)) for rows in (min(rows, context) for rows in STEPS)]
    return {
        "rank": rank,
        "graph": graph_text(graph),
        "arenas": [{"rows": rows, "bytes": arena.bytes, "bound": arena.bound} for rows, arena in arenas],
    }


def graph_as_text(described: dict[str, Any]) -> str:
    lines = [
        f"# memory of a step of {a['rows']} rows: {a['bytes']:,} bytes in one arena, at the least {a['bound']:,}"
        for a in described["arenas"]
    ]
    return str(described["graph"]) + "\n".join(lines)
