r"""A graph as text that parses back unchanged.

In: a Graph. Out: text, a line a value.

    graph "two norms"
    input x: f32[rows, 8]
    repeat layer 0..2 {
      carry h: f32[rows, 8] from x next normed to last
      weight w: f32[8] of layers.{layer}.norm.weight
      normed: f32[rows, 8] = rms_norm(h, w) epsilon=1e-06
    }
    output last

`carry` hands a value from turn to turn: it begins with x, goes on with normed, and is called last
after the repeat. `of` and `as` say what something is called outside, where that differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from mpsplit.graph.typed_graph import Graph, Region, Repeat, Step

INDENT = "  "


def graph_text(graph: Graph) -> str:
    return "\n".join([f"graph {json.dumps(graph.title, ensure_ascii=False)}", *_region(graph.body)]) + "\n"


def _region(region: Region) -> Iterator[str]:
    for kind, group in (("input", region.inputs), ("weight", region.weights)):
        for given in group:
            source = "" if given.source == given.name else f" of {given.source}"
            yield f"{kind} {given.name}: {given.type}{source}"
    for step in region.steps:
        yield from _repeat(step) if isinstance(step, Repeat) else [step_text(step)]
    for output in region.outputs:
        yield f"output {output.value}" + ("" if output.value == output.name else f" as {output.name}")


def step_text(step: Step) -> str:
    made = ", ".join(f"{value.name}: {value.type}" for value in step.makes)
    attributes = "".join(f" {name}={value!r}" for name, value in step.attributes)
    attributes += "".join(f" {name}={word}" for name, word in step.words)
    return f"{made} = {step.operator}({', '.join(step.reads)}){attributes}"


def _repeat(repeat: Repeat) -> Iterator[str]:
    yield f"repeat {repeat.index} {repeat.first}..{repeat.stop} {{"
    for c in repeat.carried:
        yield f"{INDENT}carry {c.name}: {c.type} from {c.start} next {c.following} to {c.result}"
    for line in _region(repeat.body):
        yield INDENT + line
    yield "}"
