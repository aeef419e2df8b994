"""TorchScript as a program of torch.export, whose lengths grow.

In: a traced program, example inputs, their shapes. Out: an ExportedProgram that computes the same.

The script is played back, operator by operator, on tensors whose sizes are symbols. Invariant: what
was traced is what is exported; nothing is traced of the model again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mpsplit.errors import ConvertError
from mpsplit.package.stages.growing_shapes import Shape

aten = torch.ops.aten
# jit.trace makes tensors of sizes and whole numbers of them; played back, both are the number
SIZES: dict[str, Callable[..., Any]] = {
    "aten::size": lambda x, axis: x.size(axis),
    "prim::NumToTensor": lambda x: x,
    "aten::Int": lambda x: x,
    "prim::ListConstruct": lambda *given: list(given),
    "prim::TupleConstruct": lambda *given: given,
}
ON_NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "aten::add": operator.add,
    "aten::sub": operator.sub,
    "aten::mul": operator.mul,
    "aten::floor_divide": operator.floordiv,
}


class Replayed(nn.Module):
    """Attributes have the script's names."""

    def __init__(self, script: torch.jit.ScriptModule):
        super().__init__()
        self.script = script.graph
        for name, parameter in script.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach(), requires_grad=False))
        for name, buffer in script.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, *inputs: torch.Tensor) -> Any:
        values = dict(zip([value.debugName() for value in self.script.inputs()][1:], inputs, strict=True))
        for node in self.script.nodes():
            given: list[Any] = [values.get(value.debugName()) for value in node.inputs()]
            outputs = [value.debugName() for value in node.outputs()]
            if node.kind() in ("prim::ListUnpack", "prim::TupleUnpack"):
                values |= zip(outputs, given[0], strict=True)
            else:
                values[outputs[0]] = self._value(node, given)
        [result] = self.script.outputs()
        return values[result.debugName()]

    def _value(self, node: torch.Node, given: Sequence[Any]) -> Any:
        kind = node.kind()
        if kind == "prim::GetAttr":
            return getattr(self, node.s("name"))
        if kind == "prim::Constant":
            return node.output().toIValue()
        if kind in SIZES:
            return SIZES[kind](*given)
        if kind in ON_NUMBERS and not any(isinstance(value, torch.Tensor) for value in given):
            return ON_NUMBERS[kind](*given[:2])
        if not kind.startswith("aten::"):
            raise ConvertError(f"the program has {kind}, which is no operator of torch; use --compiler ncnn")
        schema = torch._C.parse_schema(node.schema())
        overload = getattr(getattr(aten, kind.removeprefix("aten::")), schema.overload_name or "default")
        if overload is aten.scaled_dot_product_attention.default:
            given = _with_whole_mask(given)
        named = zip(schema.arguments, given, strict=True)
        arguments: list[Any] = []
        keywords = {}
        for argument, value in named:
            if argument.kwarg_only:
                keywords[argument.name] = value
            else:
                arguments.append(value)
        return overload(*arguments, **keywords)


def _with_whole_mask(given: Sequence[Any]) -> list[Any]:
    """IREE takes a mask with as many axes as the queries have."""
    query, key, value, mask, *more = given
    if mask is not None and mask.dim() < query.dim():
        mask = mask[(None,) * (query.dim() - mask.dim())]
    return [query, key, value, mask, *more]


def exported(
    script: torch.jit.ScriptModule, examples: Iterable[torch.Tensor], shapes: Iterable[Shape]
) -> torch.export.ExportedProgram:
    """Sizes that are texts in `shapes` are free."""
    free = torch.export.Dim.DYNAMIC
    sizes = tuple({axis: free for axis, size in enumerate(shape) if isinstance(size, str)} for shape in shapes)
    with torch.no_grad():
        return torch.export.export(Replayed(script), tuple(examples), dynamic_shapes=(sizes,), strict=False)
