"""Collectives get their arguments, which pnnx forgets, and names that either route gives.

pnnx keeps a leaf module's type but not its numbers, so they come from the dynamo graph. A
collective whose stand-in pnnx inlined vanishes silently; the types are therefore compared one by
one.
"""

from __future__ import annotations

from dataclasses import replace

from mpsplit.errors import ConvertError
from mpsplit.export.graph.rewrites.rewrite import Context
from mpsplit.package.collectives import BY_LAYER, BY_OPERATOR, NAMESPACE, Call
from mpsplit.package.param_text import Layer, Param


def collective_arguments(param: Param, context: Context) -> Param:
    kept = [operator for layer in param.layers if (operator := _operator(layer))]
    wanted = [call.operator for call in context.schedule]
    if kept != wanted:
        raise ConvertError(
            f"pnnx kept {len(kept)} of {len(wanted)} collectives ({', '.join(kept) or 'none'}); the graph has"
            f" {', '.join(wanted)}"
        )
    calls = enumerate(context.schedule)
    return Param(tuple(_with_arguments(layer, *next(calls)) if _operator(layer) else layer for layer in param.layers))


def _operator(layer: Layer) -> str | None:
    """The collective of a layer of either route: AllReduce (moduleop) or mpi_extensions.all_reduce
    (customop)."""
    name = layer.type.removeprefix(f"{NAMESPACE}.")
    return BY_LAYER[name].operator if name in BY_LAYER else name if name in BY_OPERATOR else None


def _with_arguments(layer: Layer, number: int, call: Call) -> Layer:
    params = {str(i): str(value) for i, value in enumerate(call.arguments, start=1)}
    return replace(layer, type=BY_OPERATOR[call.operator].layer, name=f"{call.operator}_{number}", params=params)
