"""The graph of a whole model, as torch.export sees it.

In: a Subject. Out: a Capture: ATen operators in the order in which they run, each with the path of
its module and the shape of its value.

Weights are attributes with their names in the model, and have no bytes. What follows from nothing
but the length is made where it is read (made_values.py).

Invariant: the graph is whole: dynamo met nothing that it had to leave to Python.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from mpsplit.errors import ConvertError
from mpsplit.export.stages.clean_graph import clean, with_flat_rows
from mpsplit.export.stages.made_values import Made, with_made_values
from mpsplit.export.stages.model_builder import SHORTEST, SYMBOL, Subject


@dataclass(frozen=True)
class Capture:
    """`graph`: its placeholders are the model's `inputs` and the values in `made`, its attributes
    `weights` (by the names of nodes) and constants. `outputs`: the model's own names, each with
    its node. `longest`: of the length that grows, 0 where nothing does."""

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    weights: dict[str, str]
    made: dict[str, Made]
    longest: int = 0

    def node(self, name: str) -> fx.Node:
        return next(node for node in self.graph.graph.nodes if node.name == name)


def capture(subject: Subject) -> Capture:
    program = _exported(subject)
    graph, inputs, weights = _lifted(program)
    graph, made = with_made_values(clean(graph), set(weights), subject.longest if subject.growing else 0)
    graph = with_flat_rows(graph)
    outputs = _named_outputs(program, graph)
    alive = {node.name for node in graph.graph.nodes}
    left = {node: name for node, name in weights.items() if node in alive}
    return Capture(graph, inputs, outputs, left, made, subject.longest if subject.growing else 0)


def _exported(subject: Subject) -> torch.export.ExportedProgram:
    grown: dict[str, Any] = {name: None for name in subject.inputs}
    if subject.growing:
        length = torch.export.Dim(SYMBOL, min=SHORTEST, max=subject.longest)
        grown |= {name: {axis: length} for name, axis in subject.growing.items()}
    try:
        with torch.no_grad(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            return torch.export.export(subject.module, (), subject.inputs, dynamic_shapes=grown, strict=True)
    except Exception as wrong:  # dynamo has a kind of error for each way to fail
        raise ConvertError(f"dynamo cannot capture {type(subject.module).__name__} whole: {_told(wrong)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Where it breaks off, dynamo prints the graph so far; the error says what is to be said."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _told(wrong: Exception) -> str:
    """Place and reason in one line."""
    text = str(wrong)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else type(wrong).__name__
    places = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', text)
    if not places:
        return reason[:300]
    file, line, function = places[-1]
    return f"{reason[:300]} ({'/'.join(file.split('/')[-2:])}:{line}, in {function})"


def _lifted(program: torch.export.ExportedProgram) -> tuple[fx.GraphModule, tuple[str, ...], dict[str, str]]:
    """Parameters and buffers become attributes: those that a checkpoint has under their names, the
    others as constants."""
    signature = program.graph_signature
    kinds = {spec.arg.name: spec for spec in signature.input_specs}
    own = set(signature.non_persistent_buffers)
    root: dict[str, torch.Tensor] = {}
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    inputs: list[str] = []
    weights: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            mapped[node] = graph.node_copy(node, mapped.__getitem__)
            continue
        spec = kinds[node.name]
        if spec.kind == InputKind.USER_INPUT:
            if not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            mapped[node] = graph.placeholder(node.name)
            inputs.append(node.name)
        else:
            stored = spec.kind == InputKind.BUFFER and spec.target not in own and node.meta["val"].is_floating_point()
            is_weight = spec.kind == InputKind.PARAMETER or stored
            held: Mapping[str, Any] = program.state_dict if spec.target in program.state_dict else program.constants
            name = f"weight_{len(root)}" if is_weight else f"constant_{len(root)}"
            root[name] = held[spec.target]
            mapped[node] = graph.get_attr(name)
            if is_weight:
                weights[mapped[node].name] = spec.target
        mapped[node].meta = dict(node.meta)
    module = torch.nn.Module()
    for name, tensor in root.items():
        module.register_buffer(name, tensor)
    return fx.GraphModule(module, graph), tuple(inputs), weights


def _named_outputs(program: torch.export.ExportedProgram, graph: fx.GraphModule) -> dict[str, str]:
    """The tensors that the model returns, under its own names where it has some."""
    [returned] = next(node for node in graph.graph.nodes if node.op == "output").args
    numbered = pytree.tree_unflatten(list(range(len(returned))), program.call_spec.out_spec)
    named = numbered.items() if isinstance(numbered, Mapping) else {"output": numbered}.items()
    outputs = {}
    for name, numbers in named:
        flat = pytree.tree_leaves(numbers)
        for i, number in enumerate(flat):
            if isinstance(number, int) and isinstance(returned[number], fx.Node):
                outputs[name if len(flat) == 1 else f"{name}_{i}"] = returned[number].name
    return outputs
