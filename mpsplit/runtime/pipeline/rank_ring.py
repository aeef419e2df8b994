"""Which values pass between which ranks.

In: a Pipeline. Out: Routes of each rank that has stages, a pure function.

Ranks are a ring: values go from each rank to the next one, also those that only later ranks read,
and the model's outputs from the last rank to rank 0. So a message never waits for a rank that waits
for another one in between. Invariant: a value crosses each border once, however many stages behind
it read it; both sides list what passes in one order.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.package.stages.pipeline import Pipeline

LEAD = 0
Names = tuple[str, ...]


@dataclass(frozen=True)
class Routes:
    """Of one rank: what it `takes` from the rank before it and `gives` to the next one, and of the
    last rank what it `answers` to rank 0."""

    takes: Names
    gives: Names
    answers: Names


def routes(pipeline: Pipeline) -> tuple[Routes, ...]:
    giver = dict.fromkeys(pipeline.inputs, LEAD)
    for stage in pipeline.stages:
        giver |= dict.fromkeys(stage.outputs, stage.rank)
    last_reader = dict.fromkeys(giver, LEAD)
    for stage in pipeline.stages:
        last_reader |= dict.fromkeys(stage.inputs, stage.rank)
    last = pipeline.depth - 1
    answers = tuple(value for value in dict.fromkeys(pipeline.outputs.values()) if giver[value] != LEAD)
    last_reader |= dict.fromkeys(answers, last)
    borders = [
        tuple(value for value, rank in giver.items() if rank < border <= last_reader[value])
        for border in range(pipeline.depth + 1)
    ]
    return tuple(
        Routes(borders[rank], borders[rank + 1], answers if rank == last else ()) for rank in range(pipeline.depth)
    )
