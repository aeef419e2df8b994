"""The orders for C++: `python -m mpsplit.runtime.loop.orders_header > extensions/rank/orders.h`.

In: the verbs, messages and constants of Python. Out: the text of a header. Invariant: nothing in it
is written by hand, so that both sides agree; a test compares it with the file.
"""

from __future__ import annotations

import inspect
import itertools
import textwrap
from typing import NamedTuple, get_type_hints

from mpsplit.runtime.choose import answers, cells, sampling
from mpsplit.runtime.engine.engine_protocol import CACHES, IDENTITY, SAVE_NAME, KeptSegment, Span
from mpsplit.runtime.engine.pages import PAGE
from mpsplit.runtime.loop import order_numbers, orders
from mpsplit.runtime.loop.verbs import Verb

WIDTH = 100
TYPES = {int: "int64_t", float: "double", str: "char", Verb: "Verb"}


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}// ", subsequent_indent=f"{indent}// ")


def _verbs() -> list[str]:
    lines = ["enum class Verb : int64_t {"]
    for verb in Verb:
        lines += [*_comment(verb.meaning, "    "), f"    {verb.name.lower()} = {verb.value},"]
    lines += ["};", "", "struct VerbFacts {"]
    lines += ["    const char* name;"]
    lines += ["    bool numbered;  // brings `count` numbers: `token`, or for more than one int64 [count]"]
    lines += ["    bool resting;   // the next order may take as long as it likes", "};"]
    lines += ["constexpr VerbFacts verb_facts[] = {"]
    flags = [f'{{"{verb.name.lower()}", {verb.numbered}, {verb.resting}}},'.lower() for verb in Verb]
    wide = max(map(len, flags))
    return [
        *lines,
        *(f"    {flag:{wide}}  // {verb.value}" for flag, verb in zip(flags, Verb, strict=True)),
        "};",
    ]


def fields(message: type[NamedTuple]) -> list[tuple[str, str, str]]:
    """Of a message, in the order of the wire: C++ type, name, what it is where nothing is said."""
    found = []
    for name, kind in get_type_hints(message).items():
        if kind is Span:  # its fields lie in the message
            found += fields(Span)
        elif kind is str:
            found.append((TYPES[kind], f"{name}[{IDENTITY}]", "{}"))
        else:
            default = message._field_defaults.get(name, 0)
            found.append((TYPES[kind], name, "Verb::end" if kind is Verb else f"{default:g}"))
    return found


def _struct(name: str, message: type[NamedTuple], meaning: str | None) -> list[str]:
    rows = fields(message)
    lines = ["", *_comment(meaning or ""), f"struct {name} {{"]
    for type_name, group in itertools.groupby(rows, key=lambda row: row[0]):
        lines.append(f"    {type_name} {', '.join(f'{field} = {default}' for _, field, default in group)};")
    letters = sum(type_name == TYPES[str] for type_name, *_ in rows)
    return [*lines, "};", f"static_assert(sizeof({name}) == {8 * (len(rows) - letters) + IDENTITY * letters});"]


def header() -> str:
    lines = [
        "// What rank 0 tells the others. Do not edit: made of verbs.py and orders.py by",
        "//   python -m mpsplit.runtime.loop.orders_header > extensions/rank/orders.h",
        "// mpsplit/runtime/loop/orders.py says how ranks start and answer.",
        "#pragma once",
        "",
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        "namespace mpsplit {",
        "",
        f"constexpr int64_t orders_version = {orders.VERSION};",
        f"constexpr int lead = {orders.LEAD};",
        f"constexpr int64_t nothing_wanted = {answers.NOTHING}, all_wanted = {answers.ALL};",
        f"constexpr int64_t blocks_wanted = {answers.BLOCKS}, cells_wanted = {answers.CELLS};",
        f"constexpr int64_t cell_wanted = {answers.CELL}, span_wanted = {answers.SPAN};",
        f"constexpr int64_t wide_wanted = {answers.WIDE};",
        f"constexpr int64_t by_tilt = {answers.BY_TILT}, by_mask = {answers.BY_MASK};",
        f"constexpr size_t answer_block = {answers.BLOCK};",
        f"constexpr int64_t most_cells = {answers.MOST_CELLS};",
        f"constexpr int64_t most_numbers = {orders.MOST_NUMBERS}, largest_number = {order_numbers.MOST};",
        f"constexpr int64_t largest_start = {order_numbers.MOST_START};",
        f"constexpr int64_t page_positions = {PAGE}, caches = {len(CACHES)};",
        f"constexpr double answer_grain = {answers.GRAIN};",
        f"constexpr double coldest = {sampling.COLDEST:g}, edge = {cells.EDGE:g}, deepest = {cells.DEEPEST:g};",
        f"constexpr int64_t nucleus = {sampling.NUCLEUS}, few_candidates = {sampling.FEW};",
        f"constexpr size_t save_name_bytes = {SAVE_NAME};",
        "",
        *_verbs(),
        *_struct("Order", orders.Order, inspect.getdoc(orders.Order)),
        *_struct("Question", order_numbers.Question, inspect.getdoc(order_numbers.Question)),
        *_struct("KeptSegment", KeptSegment, inspect.getdoc(KeptSegment)),
        "",
        "}  // namespace mpsplit",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(header(), end="")
