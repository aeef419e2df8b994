"""What torch.compile(model, backend="mpsplit", options={...}) calls.

In: a graph of dynamo, its inputs and the options. Out: a function with gradients: aot_autograd's
forward and backward, each in partitions. Invariant: what a target does not take is run by torch
and reported; where options say strict, it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch._dynamo import register_backend
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.fx import GraphModule

from mpsplit.train.artefacts import Artefacts, artefacts_of
from mpsplit.train.compare import Compared
from mpsplit.train.decompositions import decompositions
from mpsplit.train.partitions import Partitioned, count, partitioned
from mpsplit.train.targets import TARGETS
from mpsplit.train.train_options import TrainError, TrainOptions, read_options
from mpsplit.train.train_report import GraphReport, remember


def mpsplit_backend(graph: GraphModule, inputs: list[Any], options: Mapping[str, Any] | None = None) -> Any:
    chosen = read_options(options or {}, list(TARGETS))
    reports: list[GraphReport] = []
    remember(inputs, reports)
    artefacts = artefacts_of(chosen, graph, inputs)
    compilers = {
        name: partial(_compile_graph, direction, chosen, reports, artefacts)
        for name, direction in [
            ("fw_compiler", "forward"),
            ("bw_compiler", "backward"),
            ("inference_compiler", "inference"),
        ]
    }
    return aot_autograd(**compilers, decompositions=decompositions())(graph, inputs)


def _compile_graph(
    direction: str,
    options: TrainOptions,
    reports: list[GraphReport],
    artefacts: Artefacts | None,
    graph: GraphModule,
    _inputs: list[Any],
) -> Callable[..., Any]:
    if artefacts:
        artefacts.write(direction, graph)
    target = TARGETS[options.target]
    taken, left = count(graph, target)
    if options.strict and left:
        names = ", ".join(f"{name} x {times}" for name, times in sorted(left.items()))
        raise TrainError(f"{direction}: {options.target} does not take {names}; without strict, torch runs them")
    compared = None
    if options.compare and artefacts:
        compared = Compared(graph, target, artefacts.path(f"{direction}-compared", ".npz"))
        target = replace(target, compile=lambda part: part.forward)  # it compiles one operator at a time
    compiled, partitions = partitioned(graph, target)
    what = Partitioned(partitions, taken, left)
    reports.append(GraphReport(direction, options.target, what, compared.comparison if compared else None))
    return make_boxed_func(compared or compiled.forward)


def register() -> None:
    register_backend(mpsplit_backend, name="mpsplit")
