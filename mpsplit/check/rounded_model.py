"""The yardstick: what rounding alone makes of the original.

In: a layer of the original or a whole module, how the package stores each linear. Out: the same,
whose weights and inputs are rounded in the plainest way: to the nearest of the kind's own steps.

So what a sound package may lose is measured on the model at hand, part by part, and no method of
conversion is asked: a better one loses less, damage loses more. Invariant: weights in float32 stay
what they are, and so do blocks of a GGUF file that are kept: of these only the inputs are rounded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mpsplit.check.original_model import UNCHANGED, Change, Layer
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation

INPUT_BITS = 8  # the kernels round what a linear of few bits reads, in blocks like its weights
TINY = 1e-30
Kinds = Mapping[str, Quantisation]  # by the names of the weights


def rounded(values: torch.Tensor, how: Quantisation) -> torch.Tensor:
    """[..., k]: each block of neighbours along the last axis has the step that just reaches its
    largest."""
    if not how.bits or how.is_given:
        return values
    if how.bits == BFLOAT:
        return values.to(torch.bfloat16).to(torch.float32)
    if values.shape[-1] % how.one_scale:  # whose ranks have cut it elsewhere
        return values
    blocks = values.unflatten(-1, (-1, how.one_scale))
    return (by_table(blocks, how.table) if how.by_table else evenly(blocks, how)).flatten(-2)


def evenly(blocks: torch.Tensor, how: Quantisation) -> torch.Tensor:
    steps = blocks.abs().amax(-1, keepdim=True) * how.step
    return torch.round(blocks / steps.clamp_min(TINY)) * steps


def by_table(blocks: torch.Tensor, values: tuple[int, ...]) -> torch.Tensor:
    """The largest becomes the least value, whatever its sign."""
    table = torch.tensor(values, dtype=torch.float32)
    scales = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / table[0]
    scales = torch.where(scales.abs() < TINY, TINY, scales)
    return table[torch.bucketize(blocks / scales, (table[1:] + table[:-1]) / 2, right=True)] * scales


def change_of(how: Quantisation | None, reads: bool = True) -> Change:
    """What plain rounding makes of a matrix; `reads`: and of what it is multiplied with."""
    if not (how and how.bits):
        return UNCHANGED
    rows = partial(rounded, how=how)
    inputs = how if how.bits == BFLOAT else replace(how, bits=INPUT_BITS, block=how.inputs_block)
    return Change(rows, partial(rounded, how=inputs)) if reads else Change(rows)


def rounded_layer(layer: Layer, prefix: str, kinds: Kinds) -> Layer:
    """The layer at `prefix`, as the package would have it after plain rounding."""
    if not any(name.startswith(f"{prefix}.") and how.bits for name, how in kinds.items()):
        return layer
    module = rounded_linears(layer.layer, lambda name, _: kinds.get(f"{prefix}.{name}"))
    return Layer(layer.body, module, layer.family)


def rounded_linears(module: nn.Module, kind_of: Callable[[str, int], Quantisation | None]) -> nn.Module:
    """A copy; `kind_of` says how a weight of this name and so many inputs is stored. What is tied
    to one, such as an embedding, stays as it is."""
    module = copy.deepcopy(module)
    for name, linear in module.named_modules():
        if isinstance(linear, nn.Linear | Conv1D):
            rows = linear.weight.detach() if isinstance(linear, nn.Linear) else linear.weight.detach().T
            change = change_of(kind_of(f"{name}.weight", rows.shape[1]))
            if change is not UNCHANGED:
                changed = change.rows(rows) if isinstance(linear, nn.Linear) else change.rows(rows).T
                linear.weight = nn.Parameter(changed, requires_grad=False)
                linear.register_forward_pre_hook(_changes_inputs(change))
    return module


def _changes_inputs(change: Change):
    def hook(_, inputs):
        return (change.inputs(inputs[0]), *inputs[1:])

    return hook
