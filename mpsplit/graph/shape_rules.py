"""What an operator makes of what it reads.

In: an operator's name, the types that it reads, its attributes. Out: the types that it makes, or a
GraphError with names and numbers.

layer_shapes has the rules, with its own words for the rows of a step and the past. An operator's
axes say which of our sizes play them; they may be any sizes. Invariant: a size that plays a part is
the same in all values of a step, and what is made has it back.
"""

from __future__ import annotations

import difflib

from mpsplit.errors import GraphError, PackageError
from mpsplit.graph.operator_kind import Axes, Operator, Said, Types
from mpsplit.graph.operator_table import OPERATORS, PICK, whole
from mpsplit.graph.symbols import Size
from mpsplit.graph.value_types import ROW_BY_ROW, ValueType, plain
from mpsplit.package.checked.layer_shapes import ALL, ANSWERS, PAST, ROWS, TOP, Shape, shapes_of

Parts = dict[str, Size]  # by the words of layer_shapes
WANTED = Size.parse("answers")  # rows that wanted_rows leaves


def operator_of(name: str) -> Operator:
    if name not in OPERATORS:
        near = difflib.get_close_matches(name, OPERATORS, 3) or sorted(OPERATORS)
        raise GraphError(f"there is no operator {name[:40]!a}; there are {', '.join(near)}")
    return OPERATORS[name]


def checked_attributes(name: str, said: Said) -> Said:
    """In the order of the table, each of its kind."""
    table = operator_of(name).attributes
    if unknown := [key for key in said if key not in table]:
        raise GraphError(f"{name} has no attribute {', '.join(unknown)}; it has {', '.join(table) or 'none'}")
    if lacking := [key for key, attribute in table.items() if not attribute.optional and key not in said]:
        raise GraphError(f"{name} lacks {', '.join(lacking)}")
    for key, value in said.items():
        good = type(value) in (int, table[key].kind) and abs(value) < float("inf")
        if not good:
            raise GraphError(f"{key}={value!r} of {name} must be {'a whole' if table[key].kind is int else 'a'} number")
    return {key: attribute.kind(said[key]) for key, attribute in table.items() if key in said}


def made_of(name: str, types: Types, said: Said) -> tuple[ValueType, ...]:
    """What the operator makes."""
    operator, said = operator_of(name), checked_attributes(name, said)
    count = len(operator.values)
    if len(types) < count or len(types) > count and not operator.weights:
        more = f" and {operator.weights}" if operator.weights else ""
        raise GraphError(f"{name} reads {', '.join(operator.values)}{more}, it is given {len(types)} values")
    for value, found in zip(operator.values, types, strict=False):
        if found.element != "f32" or found.layout != ROW_BY_ROW:
            raise GraphError(f"{value} of {name} is {found}, it must be f32")
    try:
        return _picked(types[0]) if name == PICK else _by_the_rules(operator, types, said)
    except (GraphError, PackageError) as wrong:
        values = (f"{value} {found}" for value, found in zip(operator.values, types, strict=False))
        weights = (str(found) for found in types[count:])
        raise GraphError(f"{name}({', '.join([*values, *weights])}): {wrong}") from None


def _picked(found: ValueType) -> tuple[ValueType, ...]:
    if len(found.shape) != 2:
        raise GraphError("it is not rows x columns")
    return (plain(WANTED, found.shape[1]),)


def _by_the_rules(operator: Operator, types: Types, said: Said) -> tuple[ValueType, ...]:
    parts: Parts = {}
    shapes = [_played(found, axes, parts) for found, axes in zip(types, operator.values.values(), strict=False)]
    made = shapes_of(operator.layer_of(types, said), shapes, operator.rank(types, said))
    return tuple(_back(shape, parts, types, said) for shape in made)


def _played(found: ValueType, allowed: tuple[Axes, ...], parts: Parts) -> Shape:
    """A type as layer_shapes has it, its last size first. The first size that plays a part says
    what it is; one that differs keeps its own name, in brackets, and the rules refuse it."""
    axes = next((axes for axes in allowed if len(axes) == len(found.shape)), (None,) * len(found.shape))
    shape: list[int | str] = []
    for size, part in zip(found.shape, axes, strict=True):
        if part in (ROWS, PAST, ANSWERS):
            parts.setdefault(part, size)
        if part == ALL and ROWS in parts:
            _bind_past(size, parts)
        number = size.number
        shape.append(part if part and parts.get(part) == size else number if number is not None else f"({size})")
    return tuple(reversed(shape))


def _bind_past(size: Size, parts: Parts) -> None:
    rows = parts[ROWS]
    parts.setdefault(ALL, size)
    parts.setdefault(PAST, size + Size(-rows.constant, tuple((symbol, -factor) for symbol, factor in rows.terms)))


def _back(shape: Shape, parts: Parts, types: Types, said: Said) -> ValueType:
    if shape == TOP:
        return plain(2, min(int(said["count"]), whole(types, 0, -1)))
    sizes = [parts[size] if size in parts else Size.parse(str(size).strip("()")) for size in reversed(shape)]
    return ValueType("f32", tuple(sizes))
