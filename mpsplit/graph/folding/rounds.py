"""Steps of a region that follow each other in equal rounds.

In: a Region. Out: the Rounds that save the most steps, or none.

Rounds are equal when their steps are, and when each value that they read is made in the same round,
or by the same step of the round before, or is the same for all; or it is an input or a weight whose
name outside differs by numbers that grow evenly. Invariant: what others read of rounds is what the
last one carries, or an output of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpsplit.graph.folding.name_templates import Template, shape_of
from mpsplit.graph.typed_graph import Given, Region, Repeat, Step

LEAST = 4  # steps that rounds must save
TRIES = 200  # of places where they may begin
Place = tuple[int, int]  # a step, counted from the first of its round; which of the values it makes
Read = tuple[int, int]  # the same; which of the values it reads
Handed = tuple[Place, str]  # what makes a carried value, what the first round has in its place
HERE, BEFORE, OUTSIDE = "in the same round", "in the round before", "outside"


@dataclass
class Rounds:
    """`count` rounds of `length` steps from `start` on. `carried`: which reads of a round are of
    what the round before made, and what the first one reads in its place. `given`: by the names of
    the first round's, and which one each turn has; `outputs`: of each round."""

    start: int
    length: int
    count: int = 1
    carried: dict[Read, Handed] = field(default_factory=dict)
    given: dict[str, Template] = field(default_factory=dict)
    given_in: dict[tuple[str, int], str] = field(default_factory=dict)
    outputs: dict[Place, Template] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + self.length * self.count

    @property
    def saved(self) -> int:
        return self.length * (self.count - 1)


def longest_rounds(region: Region) -> Rounds | None:
    flat = _Flat.of(region)
    best: Rounds | None = None
    for tried, (most, length, start) in enumerate(_candidates(flat)):
        if tried >= TRIES or most < LEAST or best is not None and most <= best.saved:
            break
        for count in (most // length + 1, most // length):  # the last of them may be read by others
            found = _rounds(flat, start, length, count)
            if found is not None and found.saved >= LEAST and (best is None or found.saved > best.saved):
                best = found
                break
    return best


@dataclass(frozen=True)
class _Flat:
    """A region by names: what is given, which step makes a value, which steps read it, and what it
    is called as an output."""

    steps: tuple[Step | Repeat, ...]
    given: dict[str, Given]
    made: dict[str, Place]
    readers: dict[str, list[int]]
    outputs: dict[str, list[str]]

    @classmethod
    def of(cls, region: Region) -> _Flat:
        readers: dict[str, list[int]] = {}
        outputs: dict[str, list[str]] = {}
        for i, step in enumerate(region.steps):
            for name in step.reads:
                readers.setdefault(name, []).append(i)
        for output in region.outputs:
            outputs.setdefault(output.value, []).append(output.name)
        made = {value.name: (i, j) for i, step in enumerate(region.steps) for j, value in enumerate(step.makes)}
        return cls(region.steps, {given.name: given for given in region.given}, made, readers, outputs)

    def token(self, place: int) -> object:
        """The same of steps that may be equal; a repeat that is there already equals nothing."""
        step = self.steps[place]
        if isinstance(step, Repeat):
            return place
        reads = tuple(self._token_of(name) for name in step.reads)
        return step.operator, step.attributes, step.words, tuple(value.type for value in step.makes), reads

    def _token_of(self, name: str) -> object:
        """A carried value may be an input of the first round, so only weights tell steps apart."""
        given = self.given.get(name)
        return given and (given.type, shape_of(given.source)) if given and given.source != name else None

    def type_of(self, name: str) -> object:
        if name in self.given:
            return self.given[name].type
        place, which = self.made[name]
        return self.steps[place].makes[which].type


def _candidates(flat: _Flat) -> list[tuple[int, int, int]]:
    """(steps saved at the most, length of a round, first step), the best first."""
    numbers: dict[object, int] = {}
    tokens = np.array([numbers.setdefault(flat.token(i), len(numbers)) for i in range(len(flat.steps))])
    found = []
    for length in range(1, len(tokens) // 2 + 1):
        differs = np.flatnonzero(tokens[:-length] != tokens[length:])
        begins = np.concatenate([[0], differs + 1])  # runs of steps that equal the one `length` further
        runs = np.concatenate([differs, [len(tokens) - length]]) - begins
        for begin, run in zip(begins[runs >= length].tolist(), runs[runs >= length].tolist(), strict=True):
            late = range(min(length, run - length + 1))  # a run may begin before its first round does
            found += [((run - by) // length * length, length, begin + by) for by in late]
    return sorted(found, key=lambda f: (-f[0], f[1], f[2]))


def _rounds(flat: _Flat, start: int, length: int, most: int) -> Rounds | None:
    """As many as there are, at most so many."""
    found = Rounds(start, length)
    for turn in range(1, most):
        if not _goes_on(flat, found, turn):
            break
        found.count += 1
    return found if found.count > 1 and _others_fit(flat, found) else None


def _where(flat: _Flat, found: Rounds, turn: int, name: str) -> tuple[str, Place | None]:
    """Where a value that a round reads is made; outside only before all rounds."""
    step, which = flat.made.get(name, (-1, 0))
    back = turn - (step - found.start) // found.length
    if step < found.start or back not in (0, 1):
        return OUTSIDE, None
    return (HERE, BEFORE)[back], ((step - found.start) % found.length, which)


def _goes_on(flat: _Flat, found: Rounds, turn: int) -> bool:
    """Whether a round reads as the first does."""
    here = found.start + turn * found.length
    for j in range(found.length):
        first_reads, reads = flat.steps[found.start + j].reads, flat.steps[here + j].reads
        for r, (first, name) in enumerate(zip(first_reads, reads, strict=True)):
            first_where, first_place = _where(flat, found, 0, first)
            where, place = _where(flat, found, turn, name)
            if where == HERE:
                good = (first_where, first_place) == (where, place)
            elif first_where == HERE:
                good = False
            elif place is not None:
                good = _carry(flat, found, turn, (j, r), (place, first), name)
            else:
                good = _same_outside(flat, found, turn, first, name)
            if not good:
                return False
    return True


def _carry(flat: _Flat, found: Rounds, turn: int, read: Read, handed: Handed, name: str) -> bool:
    if turn == 1 and flat.type_of(handed[1]) == flat.type_of(name):
        found.carried[read] = handed
    return found.carried.get(read) == handed


def _same_outside(flat: _Flat, found: Rounds, turn: int, first: str, name: str) -> bool:
    if first == name:
        return first not in found.given
    if first not in flat.given or name not in flat.given:
        return False
    template = Template.of(flat.given[first].source, flat.given[name].source) if turn == 1 else found.given.get(first)
    if template is None or found.given.setdefault(first, template) != template:
        return False
    return template.name(turn) == flat.given[name].source and found.given_in.setdefault((first, turn), name) == name


def _others_fit(flat: _Flat, found: Rounds) -> bool:
    carried = {place for place, _ in found.carried.values()}
    for j in range(found.length):
        for which in range(len(flat.steps[found.start + j].makes)):
            names = [flat.steps[found.start + t * found.length + j].makes[which].name for t in range(found.count)]
            if any(max(flat.readers.get(name, [0])) >= found.stop for name in names[:-1]):
                return False
            last_read = max(flat.readers.get(names[-1], [0])) >= found.stop
            outputs = [flat.outputs.get(name, []) for name in names]
            if any(outputs[:-1]):
                if not (template := _of_each(outputs)):
                    return False
                found.outputs[j, which] = template
            elif outputs[-1]:
                last_read = True
            if last_read and (j, which) not in carried:
                return False
    return all(_read_by_its_round(flat, found, first) for first in found.given)


def _of_each(outputs: list[list[str]]) -> Template | None:
    """Of outputs, one of each round."""
    if any(len(names) != 1 for names in outputs):
        return None
    names = [name for (name,) in outputs]
    template = Template.of(names[0], names[1])
    return template if template and names == [template.name(turn) for turn in range(len(names))] else None


def _read_by_its_round(flat: _Flat, found: Rounds, first: str) -> bool:
    """Whether nobody but a round reads what is given to it alone."""
    starts = {start for _, start in found.carried.values()}
    for turn in range(found.count):
        name, begins = found.given_in.get((first, turn), first), found.start + turn * found.length
        inside = all(begins <= reader < begins + found.length for reader in flat.readers[name])
        if not inside or name in flat.outputs or name in starts:
            return False
    return True
