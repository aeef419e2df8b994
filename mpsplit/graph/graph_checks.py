"""Whether a graph hangs together.

In: a Graph, of any origin. Out: nothing, or a GraphError with names and numbers.

Invariant: of what passes, every value is made once before it is read, and has the type that its
operator makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mpsplit.errors import GraphError
from mpsplit.graph.shape_rules import made_of
from mpsplit.graph.symbols import Size
from mpsplit.graph.typed_graph import Graph, Region, Repeat, Step
from mpsplit.graph.value_types import ValueType

NAME = r"[A-Za-z_][\w.]*"
OUTSIDE = r"[^\s\"]+"  # what inputs, weights and outputs are called
INDEXED = re.compile(r"\{([^{}]*)\}")
Scope = dict[str, ValueType]
MOST_TURNS = 100_000


def check_graph(graph: Graph) -> None:
    if not graph.title.isprintable():
        raise GraphError(f"the title {graph.title[:40]!a} has letters that do not print")
    _check_region(graph.body, {}, (), set())


def outside_name(template: str, numbers: dict[str, int]) -> str:
    """What a source or an output is called in one turn: {layer+1} is a number."""
    return INDEXED.sub(lambda found: str(Size.parse(found[1]).value(numbers)), template)


def _check_region(region: Region, around: Scope, indices: tuple[str, ...], taken: set[str]) -> Scope:
    scope = dict(around)
    for given in region.given:
        _take(given.name, given.type, scope, indices, taken)
        _check_outside(given.source, indices, () if given in region.weights else indices)
    for step in region.steps:
        if isinstance(step, Repeat):
            _check_repeat(step, scope, indices, taken)
        else:
            _check_step(step, scope)
        for value in step.makes:
            _take(value.name, value.type, scope, indices, taken)
    for output in region.outputs:
        _known([output.value], scope, f"the output {output.name}")
        _check_outside(output.name, indices, indices)
    names = [output.name for output in region.outputs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise GraphError(f"{', '.join(twice)} is an output twice")
    return scope


def _check_step(step: Step, scope: Scope) -> None:
    what = f"{', '.join(value.name for value in step.makes)} = {step.operator}"
    types = _known(step.reads, scope, what)
    if step.is_foreign:
        _check_words(step)
        return
    if step.words:
        raise GraphError(f"{what} has words of another library's; its attributes are numbers")
    try:
        made = made_of(step.operator, types, dict(step.attributes))
    except GraphError as wrong:
        raise GraphError(f"{', '.join(value.name for value in step.makes)}: {wrong}") from None
    if (said := tuple(value.type for value in step.makes)) != made:
        raise GraphError(f"{what} makes {' and '.join(map(str, made))}, not {' and '.join(map(str, said))}")


def _check_words(step: Step) -> None:
    if step.attributes or not step.makes or not re.fullmatch(NAME, step.operator, re.ASCII):
        raise GraphError(f"{step.operator[:60]!a} is no operator of another library's, or makes nothing")
    for name, word in step.words:
        if not re.fullmatch(r"\w+", name, re.ASCII) or not re.fullmatch(r"\S+", word):
            raise GraphError(f"{name[:40]!a}={word[:40]!a} of {step.operator} has spaces, or says nothing")
    if len(dict(step.words)) < len(step.words):
        raise GraphError(f"{step.operator} has an attribute twice: {', '.join(name for name, _ in step.words)[:60]}")


def _check_repeat(repeat: Repeat, scope: Scope, indices: tuple[str, ...], taken: set[str]) -> None:
    if not 1 <= len(repeat.turns) <= MOST_TURNS or repeat.first < 0:
        raise GraphError(f"repeat {repeat.index} {repeat.first}..{repeat.stop} has no turn, or too many")
    if repeat.index in indices or not re.fullmatch(r"[A-Za-z_]\w*", repeat.index):
        raise GraphError(f"a repeat's index is called {repeat.index!a}, which is no name or another's")
    inner, here = dict(scope), (*indices, repeat.index)
    for carried in repeat.carried:
        _same(carried.start, scope, carried.type, f"{carried.name} begins with")
        _take(carried.name, carried.type, inner, here, taken)
    after = _check_region(repeat.body, inner, here, taken)
    for carried in repeat.carried:
        _same(carried.following, after, carried.type, f"{carried.name} goes on with")


def _same(name: str, scope: Scope, wanted: ValueType, what: str) -> None:
    (found,) = _known([name], scope, what)
    if found != wanted:
        raise GraphError(f"{what} {name}, which is {found}, it must be {wanted}")


def _known(names: Iterable[str], scope: Scope, what: str) -> list[ValueType]:
    found = []
    for name in names:
        if name not in scope:
            raise GraphError(f"{what} reads {name[:60]!a}, which nobody makes before it")
        found.append(scope[name])
    return found


def _take(name: str, type: ValueType, scope: Scope, indices: tuple[str, ...], taken: set[str]) -> None:
    if not re.fullmatch(NAME, name, re.ASCII):
        raise GraphError(f"{name[:60]!a} is no name: letters, digits, _ and ., a letter first")
    if name in taken:
        raise GraphError(f"there are two of the name {name}")
    if moving := {symbol for size in type.shape for symbol in size.symbols} & set(indices):
        raise GraphError(f"{name} is {type}, which changes with {', '.join(moving)}; turns must be equal")
    taken.add(name)
    scope[name] = type


def _check_outside(template: str, indices: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """`wanted`: indices without which two turns would have the same name. Weights may have it."""
    if not re.fullmatch(OUTSIDE, template):
        raise GraphError(f"{template[:60]!a} cannot be a name outside: it is empty, or has a space or a quote")
    asked = [Size.parse(word).symbols for word in INDEXED.findall(template)]
    if unknown := set(sum(asked, ())) - set(indices):
        raise GraphError(f"{template} asks for {', '.join(unknown)}, which no repeat around it counts")
    if lacking := [index for index in wanted if (index,) not in asked]:
        raise GraphError(f"{template} is the same in each turn of {lacking[0]}; write {{{lacking[0]}}} into it")
