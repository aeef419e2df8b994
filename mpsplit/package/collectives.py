"""The collectives, once for everybody: traced operators, pnnx operators, ncnn layers and schedules
all read this table.

Every collective takes one tensor and returns one that is used: pnnx folds an operator without an
input into a constant and deletes one without a user. They act on the last axis only. Argument j of
the schema (the tensor is 0) is parameter id j of the ncnn layer, so the order here is the file
format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMESPACE = "mpi_extensions"
WORLD, STAGE = 0, 1  # group ids: all ranks; the ranks that share this rank's layers


@dataclass(frozen=True)
class Collective:
    """`operator` is torch's spelling, `layer` the type of the ncnn layer, `arguments` the integers
    after the tensor."""

    operator: str
    layer: str
    arguments: tuple[str, ...]


COLLECTIVES = (
    Collective("all_reduce", "AllReduce", ("group",)),
    Collective("all_gather", "AllGather", ("group", "size")),
    Collective("broadcast", "Broadcast", ("group", "root")),
    Collective("send", "Send", ("group", "peer")),
    Collective("recv", "Recv", ("group", "peer")),
)
BY_OPERATOR = {c.operator: c for c in COLLECTIVES}
BY_LAYER = {c.layer: c for c in COLLECTIVES}


@dataclass(frozen=True)
class Call:
    """One collective of a rank's graph; a list of them in order is the rank's schedule."""

    operator: str
    arguments: tuple[int, ...]

    def __str__(self) -> str:
        names = BY_OPERATOR[self.operator].arguments
        return f"{self.operator}({', '.join(f'{n}={v}' for n, v in zip(names, self.arguments, strict=True))})"

    def to_json(self) -> list[str | int]:
        return [self.operator, *self.arguments]

    @classmethod
    def from_json(cls, data: list[Any]) -> Call:
        return cls(data[0], tuple(data[1:]))
