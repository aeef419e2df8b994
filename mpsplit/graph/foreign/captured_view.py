"""What dynamo or torch.export sees of a slice or a stage, as a graph.

In: graph.fx.txt, or a stage's: torch's own text, with types behind the lines where export/trace
wrote them. Out: a Graph whose operators are torch's, opaque here. Of a line without a type, the
value's is any[].

Arguments are kept as words in which $0 is the first value that is read. Invariant: each call is a
step, in the order of the text.
"""

from __future__ import annotations

import re

from mpsplit.errors import GraphError
from mpsplit.graph.graph_builder import GraphBuilder
from mpsplit.graph.typed_graph import Graph, Value
from mpsplit.graph.value_types import NOT_KNOWN, TYPE_PATTERN, ValueType

TYPED = "  # "  # between a line and its type
NODE = re.compile(
    rf"%(\w+) : (?:\S+ )?\[num_users=\d+\] = (\w+)\[target=([^\]]+)\](?:\((.*)\))?(?:{TYPED}({TYPE_PATTERN}))?",
    re.ASCII,
)
CALL = re.compile(r"args = \((.*)\), kwargs = \{(.*)\}", re.DOTALL)
REF = re.compile(r"%(\w+)")
RETURNED = re.compile(r"\b(?!None\b)[A-Za-z_]\w*")
OWNERS = {"call_method": "Tensor.", "call_module": "module."}


def captured_graph(text: str, title: str) -> Graph:
    """Unfolded."""
    builder, values = GraphBuilder(title), dict[str, Value]()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("return "):
            for name in dict.fromkeys(RETURNED.findall(line.removeprefix("return "))):
                builder.output(_value(values, name, number))
        elif found := NODE.fullmatch(line):
            name, kind, target, given, said = found.groups()
            values[name] = _made(builder, values, (name, kind, target, given or ""), _type(said), number)
        elif line not in ("", "graph():"):
            raise GraphError(f"line {number}: {line[:60]!a} is none of a captured graph's")
    return builder.graph()


def _made(
    builder: GraphBuilder, values: dict[str, Value], node: tuple[str, str, str, str], type: ValueType, line: int
) -> Value:
    name, kind, target, given = node
    if kind == "placeholder":
        return builder.input(name, type, target)
    if kind == "get_attr":
        return builder.weight(name, type, target)
    if not (call := CALL.fullmatch(given)):
        raise GraphError(f"line {line}: {name} is called with {given[:60]!a}, not args and kwargs")
    reads = list(dict.fromkeys(REF.findall(given)))
    words = {key: _word(said, reads) for key, said in (("args", call[1]), ("kwargs", call[2]))}
    plain_reads = ",".join(f"${i}" for i in range(len(reads)))
    words = {key: said for key, said in words.items() if said and said != plain_reads}
    operator = OWNERS.get(kind, "" if "." in target else "builtins.") + re.sub(r"[^\w.]", "_", target)
    (made,) = builder.foreign(operator, [_value(values, read, line) for read in reads], [Value(name, type)], words)
    return made


def _value(values: dict[str, Value], name: str, line: int) -> Value:
    if name not in values:
        raise GraphError(f"line {line}: %{name[:40]} is read, which nobody makes before it")
    return values[name]


def _word(said: str, reads: list[str]) -> str:
    numbered = REF.sub(lambda found: f"${reads.index(found[1])}", said)
    return re.sub(r"\s+", "", numbered).rstrip(",")


def _type(said: str | None) -> ValueType:
    return ValueType.parse(said) if said else NOT_KNOWN
