"""Equal layers as one that repeats.

In: a Graph. Out: the same graph in which equal rounds of steps are a Repeat.

A repeat has the names of its first round; what comes out of it, those of the last. Invariant:
unfolded (folding/unfolding.py), it is the graph that it was, but for the names of values.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.graph.folding.name_templates import Template
from mpsplit.graph.folding.rounds import Handed, Rounds, longest_rounds
from mpsplit.graph.typed_graph import Carried, Given, Graph, Output, Region, Repeat, Step, every_name, free_name

INDEX = "layer"
CARRIED = "x"  # what is handed on, inside


def folded(graph: Graph) -> Graph:
    """The longest repeat first, then what is left beside it."""
    body, taken = graph.body, set(every_name(graph.body))
    while (found := longest_rounds(body)) is not None:
        body = _with_repeat(body, found, taken)
    return replace(graph, body=body)


def _with_repeat(region: Region, found: Rounds, taken: set[str]) -> Region:
    begins = next((t.begins for t in found.given.values() if t.begins is not None), 0)
    carried = {handed: _carried(region, found, handed, taken) for handed in dict.fromkeys(found.carried.values())}
    repeat = Repeat(
        INDEX,
        begins,
        begins + found.count,
        tuple(carried.values()),
        Region(
            _inside(region.inputs, found.given, begins),
            _inside(region.weights, found.given, begins),
            tuple(_step(region, found, j, carried) for j in range(found.length)),
            tuple(
                Output(region.steps[found.start + j].makes[which].name, template.text(INDEX, begins))
                for (j, which), template in found.outputs.items()
            ),
        ),
    )
    gone = {*found.given, *found.given_in.values()}
    named = {template.name(turn) for template in found.outputs.values() for turn in range(found.count)}
    return Region(
        tuple(given for given in region.inputs if given.name not in gone),
        tuple(given for given in region.weights if given.name not in gone),
        (*region.steps[: found.start], repeat, *region.steps[found.stop :]),
        tuple(output for output in region.outputs if output.name not in named),
    )


def _inside(given: tuple[Given, ...], templates: dict[str, Template], begins: int) -> tuple[Given, ...]:
    return tuple(replace(g, source=templates[g.name].text(INDEX, begins)) for g in given if g.name in templates)


def _carried(region: Region, found: Rounds, handed: Handed, taken: set[str]) -> Carried:
    """The first that hands on a value has the last round's name for its result."""
    (step, which), start = handed
    following = region.steps[found.start + step].makes[which]
    last = region.steps[found.stop - found.length + step].makes[which].name
    first = next(other for other in found.carried.values() if other[0] == handed[0]) == handed
    return Carried(
        free_name(CARRIED, taken), following.type, start, following.name, last if first else free_name(last, taken)
    )


def _step(region: Region, found: Rounds, j: int, carried: dict[Handed, Carried]) -> Step:
    step = region.steps[found.start + j]
    assert isinstance(step, Step)
    reads = tuple(
        carried[found.carried[j, r]].name if (j, r) in found.carried else name for r, name in enumerate(step.reads)
    )
    return replace(step, reads=reads)
