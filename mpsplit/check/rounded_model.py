"""The yardstick: what rounding alone makes of the original.

In: a layer of the original, how the package stores each linear. Out: the same layer, whose weights
and inputs are rounded in the plainest way: to the nearest of the kind's own steps.

So what a sound package may lose is measured on the model at hand, part by part, and no method of
conversion is asked: a better one loses less, damage loses more. Invariant: weights in float32 stay
what they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from mpsplit.check.original_model import UNCHANGED, Change, Layer
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation

INPUT_BITS = 8  # the kernels round what a linear of few bits reads, in blocks like its weights
Kinds = Mapping[str, Quantisation]  # by the names of the weights


def rounded(values: torch.Tensor, how: Quantisation, bits: int | None = None) -> torch.Tensor:
    """[..., k]: each block of neighbours along the last axis has the step that just reaches its
    largest."""
    bits = how.bits if bits is None else bits
    if not how.bits:
        return values
    if how.bits == BFLOAT:
        return values.to(torch.bfloat16).to(torch.float32)
    if values.shape[-1] % how.block:  # whose ranks have cut it elsewhere
        return values
    blocks = values.unflatten(-1, (-1, how.block))
    steps = blocks.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (torch.round(blocks / steps.clamp_min(TINY)) * steps).flatten(-2)


TINY = 1e-30


def change_of(how: Quantisation | None, reads: bool = True) -> Change:
    """What plain rounding makes of a matrix; `reads`: and of what it is multiplied with."""
    if not (how and how.bits):
        return UNCHANGED
    rows = partial(rounded, how=how)
    return Change(rows, partial(rounded, how=how, bits=INPUT_BITS)) if reads else Change(rows)


def rounded_layer(layer: Layer, prefix: str, kinds: Kinds) -> Layer:
    """The layer at `prefix`, as the package would have it after plain rounding."""
    if not any(name.startswith(f"{prefix}.") and how.bits for name, how in kinds.items()):
        return layer
    module = copy.deepcopy(layer.layer)
    for name, linear in module.named_modules():
        change = change_of(kinds.get(f"{prefix}.{name}.weight"))
        if change is not UNCHANGED and isinstance(linear, nn.Linear):
            with torch.no_grad():
                linear.weight.copy_(change.rows(linear.weight))
            linear.register_forward_pre_hook(_changes_inputs(change))
    return Layer(layer.body, module, layer.family)


def _changes_inputs(change: Change):
    def hook(_, inputs):
        return (change.inputs(inputs[0]), *inputs[1:])

    return hook
