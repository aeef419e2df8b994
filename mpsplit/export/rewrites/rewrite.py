"""What every rewrite may know besides the .param text."""

from __future__ import annotations

from dataclasses import dataclass

from mpsplit.package.collectives import Call


@dataclass(frozen=True)
class Context:
    """`schedule`: the collectives of the dynamo graph in order; `lengths`: what was traced with; `attentions`: decoder layers
    that have heads on this rank."""

    schedule: tuple[Call, ...]
    lengths: tuple[int, ...]
    attentions: int
    head: bool
