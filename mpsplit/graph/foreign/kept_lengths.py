"""Lengths that pnnx does not say.

In: an operator of pnnx, the types that it reads, the shape that it makes, with None for `?`. Out:
for each size the one of what it reads that it must be, or None where no rule says it.

Invariant: only what is None gets a size from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mpsplit.graph.symbols import Size
from mpsplit.graph.value_types import ValueType

Known = Sequence[int | None]
Sizes = list[Size | None]
Words = Mapping[str, str]
Rule = Callable[[Words, Sequence[ValueType], Known], Sizes]


def kept_lengths(operator: str, words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    """As many as `made` has."""
    said: Sizes = [None if size is None else Size(size) for size in made]
    if None not in said or operator not in RULES or not reads:
        return said
    try:
        found = RULES[operator](words, reads, made)
    except (KeyError, ValueError, IndexError):  # words that are none of this operator's
        return said
    if len(found) != len(made):
        return said
    lengths = [kept if kept and kept.number is None else None for kept in found]
    return [own or kept for own, kept in zip(said, lengths, strict=True)]


def _same(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    return list(reads[0].shape)


def _but_along(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    """Joined or cut along an axis."""
    sizes: Sizes = list(reads[0].shape)
    sizes[int(words["dim"])] = None
    return sizes


def _broadcast(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    """Of several values, which are aligned by their last size: the one that is not 1."""
    sizes: Sizes = []
    for axis in range(-len(made), 0):
        there = [found.shape[axis] for found in reads if len(found.shape) >= -axis]
        sizes.append(next((size for size in there if size.number != 1), None))
    return sizes


def _transposed(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    sizes: Sizes = list(reads[0].shape)
    a, b = (int(words[key]) for key in ("dim0", "dim1"))
    sizes[a], sizes[b] = sizes[b], sizes[a]
    return sizes


def _permuted(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    return [reads[0].shape[axis] for axis in _numbers(words["dims"])]


def _unsqueezed(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    sizes: Sizes = list(reads[0].shape)
    axis = int(words["dim"])
    sizes.insert(axis + len(made) if axis < 0 else axis, Size(1))
    return sizes


def _reshaped(words: Words, reads: Sequence[ValueType], made: Known) -> Sizes:
    """One length is left, if there was one and the other sizes have the same product."""
    lengths = [size for size in reads[0].shape if size.number is None]
    before = math.prod(size.number for size in reads[0].shape if size.number is not None)
    after = math.prod(size for size in made if size is not None)
    one = len(lengths) == 1 and list(made).count(None) == 1 and before == after
    return [lengths[0] if one and size is None else None for size in made]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.strip("()[]").split(",") if word]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("nn.Linear", "nn.RMSNorm", "nn.LayerNorm", "F.silu", "F.gelu", "F.softmax", "F.rms_norm", "F.layer_norm",
         "F.scaled_dot_product_attention"), _same,
    ),
    **dict.fromkeys(("torch.cat", "torch.tensor_split", "torch.chunk"), _but_along),
    "pnnx.Expression": _broadcast,
    "torch.transpose": _transposed,
    "torch.permute": _permuted,
    "torch.unsqueeze": _unsqueezed,
    "Tensor.reshape": _reshaped,
    "Tensor.view": _reshaped,
}  # fmt: skip
