"""Where each value of a graph lies in one arena.

In: a Graph, a number for each of its symbols. Out: an Arena: offsets in bytes, how long the arena
must be, and the least that any arena could be.

A value lives from the step that makes it to the last one that reads it; outputs live to the end.
Weights lie elsewhere, and inputs where nobody asks for them. A step that works in place takes over
the bytes of what it reads, if that is not read later; heads and their rows are the same bytes.
Values are placed one after the other, each into the smallest gap that what lives beside it leaves;
the best of a few orders is taken. Invariant: two values that live in the same step do not overlap.

extensions/engine/arena.cpp does the same, so that what is told here is what the engine takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from mpsplit.graph.folding.unfolding import unfolded
from mpsplit.graph.operator_kind import SAME
from mpsplit.graph.operator_table import OPERATORS
from mpsplit.graph.typed_graph import Graph, Output, Step, Value
from mpsplit.package.checked.graph_check import HIDDEN_OUT
from mpsplit.package.stored.float_weights import ALIGNMENT


@dataclass(frozen=True)
class Placed:
    """Of a value, or of several that have its bytes one after the other. `bytes` are a multiple of
    the alignment, and so is `offset`; `first` and `last` are steps of the unfolded graph, the last
    included; inputs are there before the first."""

    name: str
    bytes: int
    first: int
    last: int
    offset: int = 0

    @property
    def stop(self) -> int:
        return self.offset + self.bytes

    def beside(self, other: Placed) -> bool:
        """Whether both live in some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """`bound`: the largest sum of the bytes that live in one step."""

    placed: tuple[Placed, ...]
    bytes: int
    bound: int


TURNS = 8  # of placing again what did not fit
Order = Callable[[Placed], tuple[int, ...]]
ORDERS: tuple[Order, ...] = (
    lambda v: (-v.bytes, v.first),  # the largest first
    lambda v: (v.first, -v.bytes),  # as they are made
    lambda v: (v.first - v.last, -v.bytes, v.first),  # what lives longest first
    lambda v: ((v.first - v.last - 1) * v.bytes, v.first),  # what takes most bytes of most steps first
)


def plan_arena(graph: Graph, numbers: Mapping[str, int]) -> Arena:
    return _planned(lifetimes(graph, numbers))


def engine_arena(graph: Graph, rows: int, answers: int = 1) -> Arena:
    """Of a step of the native engine, by its graph in a package: it writes rows of the embedding
    into the arena, and takes one value out of it, the logits where it has a head."""
    body = unfolded(graph).body
    taken = next((o for o in body.outputs if o.name == "logits"), None) or _hidden_out(body.outputs)
    steps = tuple(step for step in body.steps if isinstance(step, Step) and step.operator != "top_k")
    step_alone = replace(graph, body=replace(body, steps=steps, outputs=(taken,)))
    return _planned(lifetimes(step_alone, {"rows": rows, "answers": answers}, inputs=True))


def _hidden_out(outputs: tuple[Output, ...]) -> Output:
    return next(output for output in outputs if output.name == HIDDEN_OUT)


def _planned(lives: list[Placed]) -> Arena:
    bound = largest_sum(lives)
    best = min((_moved_forward(sorted(lives, key=order), bound) for order in ORDERS), key=_end)
    return Arena(tuple(sorted(best, key=lambda v: (v.first, v.offset))), _end(best), bound)


def _moved_forward(values: list[Placed], bound: int) -> list[Placed]:
    """The best of a few turns, in each of which what did not fit below the bound is placed
    first."""
    best = placed = _placed(values)
    for _ in range(TURNS):
        if _end(best) == bound:
            break
        high = {value.name for value in placed if value.stop > bound}
        placed = _placed(sorted(placed, key=lambda value: value.name not in high))
        best = min(best, placed, key=_end)
    return best


def lifetimes(graph: Graph, numbers: Mapping[str, int], inputs: bool = False) -> list[Placed]:
    """`inputs`: whether these lie in the arena too."""
    body = unfolded(graph).body
    last: dict[str, int] = {}
    for i, step in enumerate(body.steps):
        last |= dict.fromkeys(step.reads, i)
    last |= dict.fromkeys((output.value for output in body.outputs), len(body.steps) - 1)
    lives: list[Placed] = []
    place: dict[str, int] = {}  # of a value's bytes in `lives`

    def live(value: Value, step: int) -> None:
        place[value.name] = len(lives)
        size = -(-value.type.bytes(numbers) // ALIGNMENT) * ALIGNMENT
        lives.append(Placed(value.name, size, step, last.get(value.name, step)))

    for given in body.inputs if inputs else ():
        live(Value(given.name, given.type), -1)
    for i, step in enumerate(body.steps):
        assert isinstance(step, Step)
        bytes_of = "" if step.is_foreign else OPERATORS[step.operator].bytes
        read = place.get(step.reads[0]) if bytes_of else None
        for value in step.makes:
            if read is None and bytes_of != SAME:
                live(value, i)
            elif read is not None and (bytes_of == SAME or lives[read].last == i):
                place[value.name] = read
                lives[read] = replace(lives[read], last=max(lives[read].last, last.get(value.name, i)))
            elif read is not None:
                live(value, i)
    return lives


def largest_sum(lives: Iterable[Placed]) -> int:
    """Over all steps, the largest sum of the bytes that live in it."""
    changes: dict[int, int] = {}
    for value in lives:
        changes[value.first] = changes.get(value.first, 0) + value.bytes
        changes[value.last + 1] = changes.get(value.last + 1, 0) - value.bytes
    now = most = 0
    for step in sorted(changes):
        now += changes[step]
        most = max(most, now)
    return most


def _placed(values: Iterable[Placed]) -> list[Placed]:
    placed: list[Placed] = []
    for value in values:
        beside = sorted((other for other in placed if value.beside(other)), key=lambda other: other.offset)
        placed.append(replace(value, offset=_best_fit(value.bytes, beside)))
    return placed


def _best_fit(bytes: int, beside: list[Placed]) -> int:
    """The offset of the smallest gap that is long enough; behind all, where there is none."""
    end, best, smallest = 0, -1, 0
    for other in beside:
        gap = other.offset - end
        if gap >= bytes and (best < 0 or gap < smallest):
            best, smallest = end, gap
        end = max(end, other.stop)
    return best if best >= 0 else end


def _end(placed: list[Placed]) -> int:
    return max((value.stop for value in placed), default=0)
