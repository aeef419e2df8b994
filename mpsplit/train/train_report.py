"""What became of each graph of a compiled module.

In: graphs as the backend compiles them. Out: a text. Invariant: a graph is found by the parameters
that it reads, for as long as these live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from mpsplit.train.compare import Comparison
from mpsplit.train.partitions import Partitioned
from mpsplit.train.train_options import TrainError


@dataclass(frozen=True)
class GraphReport:
    """`direction`: forward, backward, or inference (a forward without gradients)."""

    direction: str
    target: str
    what: Partitioned
    compared: Comparison | None = None  # in compare mode

    def lines(self) -> list[str]:
        what, left = self.what, sum(self.what.left.values())
        head = f"{self.direction}: {what.taken} operators in {what.partitions} partitions of {self.target}"
        by_torch = [f"  {name} x {times}" for name, times in sorted(what.left.items())]
        compared = [f"  {self.compared.line()}"] if self.compared else []
        return [f"{head}, {left} run by torch", *by_torch, *compared]


_graphs: WeakIdKeyDictionary = WeakIdKeyDictionary()  # parameter -> list of the GraphReports of one compilation


def remember(inputs: Sequence[Any], reports: list[GraphReport]) -> None:
    for parameter in inputs:
        if isinstance(parameter, nn.Parameter):
            _graphs.setdefault(parameter, []).append(reports)


def report(compiled: nn.Module) -> str:
    """A line a graph, then a line for each operator that torch runs."""
    compilations = {id(one): one for parameter in compiled.parameters() for one in _graphs.get(parameter, [])}
    if not compilations:
        raise TrainError("nothing is compiled for this module's parameters yet; call it once, then ask for the report")
    return "\n".join(line for reports in compilations.values() for graph in reports for line in graph.lines())
