"""What every rewrite may know besides the .param text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mpsplit.families.llama import LLAMA
from mpsplit.package.collectives import Call
from mpsplit.plan.shards import Range


@dataclass(frozen=True)
class Context:
    """`schedule`: the collectives of the dynamo graph that was converted, in order; `lengths`: what
    was traced with; `attentions`: decoder layers that have heads on this rank; `layers`: all of its
    decoder layers; `shapes`: of its weights, by name; `path`: of the list of decoder layers."""

    schedule: tuple[Call, ...]
    lengths: tuple[int, ...]
    attentions: int
    head: bool
    layers: Range = Range(0, 0)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    path: str = LLAMA.layers
