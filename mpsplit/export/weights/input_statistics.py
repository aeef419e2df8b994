"""What the linears of the split model are fed: means and second moments of their inputs.

In: a TorchEngine on every rank, calibration tokens. Out: Statistics by weight name, layer after
layer. Slices run with their real collectives. So a column-wise linear sees the whole input on every
rank, and a row-wise one (o_proj, down_proj) its rank's columns, which are those of its slice.

Invariant: only one layer's statistics are there at a time; linears that read one tensor share one
Statistics. A sequence is of what rounds, or of what judges it, in every layer and on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mpsplit.errors import ConvertError
from mpsplit.export.trace import operators
from mpsplit.export.trace.slicing import RowwiseLinear
from mpsplit.families.roles import HEAD, NORM
from mpsplit.package.collectives import WORLD

HELD = 8  # one sequence of so many judges what the others brought about


@dataclass(frozen=True)
class Statistics:
    """Of inputs x [k] over `count` tokens: the mean of |x| [k] and of x x^T [k, k], float32.
    `held`: the latter over tokens that were held back from them, where some were."""

    mean: np.ndarray
    hessian: np.ndarray
    count: int
    held: np.ndarray | None = None

    @classmethod
    def of(cls, inputs: np.ndarray) -> Statistics:
        """inputs [tokens, k]"""
        return cls(np.abs(inputs).mean(0), inputs.T @ inputs / np.float32(len(inputs)), len(inputs))

    def scaled(self, s: np.ndarray) -> Statistics:
        """Of x / s, once that has been folded into what makes x."""
        held = None if self.held is None else self.held / s / s[:, None]
        return Statistics(self.mean / s, self.hessian / s / s[:, None], self.count, held)


class _Moments:
    """The sum of x x^T over tokens, once there are some."""

    def __init__(self) -> None:
        self.sum: torch.Tensor | None = None
        self.count = 0

    def add(self, x: torch.Tensor) -> None:
        if self.sum is None:
            self.sum = torch.zeros(x.shape[-1], x.shape[-1])
        self.sum.addmm_(x.T, x)
        self.count += len(x)

    def mean(self) -> np.ndarray | None:
        """In the memory of the sum, which is none any more."""
        if self.sum is None:
            return None
        mean = self.sum.numpy()
        mean /= self.count
        return mean


class _Sums:
    """Sums over the tokens seen so far, for one input tensor and all its readers."""

    def __init__(self, width: int):
        self.mean, self.seen, self.held = torch.zeros(width), _Moments(), _Moments()

    def add(self, x: torch.Tensor, held: bool = False) -> None:
        if held:
            self.held.add(x)
            return
        self.seen.add(x)
        self.mean += x.abs().sum(0)

    def statistics(self) -> Statistics:
        """In the memory of the sums, which are none any more."""
        mean, hessian = self.mean.numpy(), self.seen.mean()
        assert hessian is not None, "the first sequence is never held back"
        mean /= self.seen.count
        return Statistics(mean, hessian, self.seen.count, self.held.mean())


@dataclass
class Holding:
    """Whether what runs `now` is held back."""

    now: bool = False


@contextmanager
def gathering(module: nn.Module, prefix: str, holding: Holding | None = None) -> Iterator[dict[str, _Sums]]:
    """Counts what the linears in `module` are fed while the block runs; keys are weight names."""
    sums: dict[str, _Sums] = {}
    last: torch.Tensor | None = None  # the tensor that was counted last, and its sums
    its_sums: _Sums | None = None

    def count(name: str, x: torch.Tensor) -> None:
        nonlocal last, its_sums
        if its_sums is None or last is not x:
            last, its_sums = x, sums.get(name) or _Sums(x.shape[-1])
            its_sums.add(x.reshape(-1, x.shape[-1]), bool(holding and holding.now))
        sums[name] = its_sums

    linears = {p: m for p, m in module.named_modules() if isinstance(m, nn.Linear | RowwiseLinear)}
    hooks = [
        m.register_forward_pre_hook(lambda _, args, name=f"{prefix}{'.' * bool(p)}{p}.weight": count(name, args[0]))
        for p, m in linears.items()
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def filled(module: nn.Module, prefix: str, fill: Callable[[str], torch.Tensor]) -> Iterator[None]:
    """The module's parameters hold fill(weight name) while the block runs, and only shapes
    afterwards: so a slice larger than memory is run layer by layer."""
    names = [name for name, _ in module.named_parameters()]
    try:
        for name in names:
            _put(module, name, fill(f"{prefix}.{name}"))
        yield
    finally:
        for name in names:
            _put(module, name, module.get_parameter(name).to("meta"))


def _put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """In the place of a parameter."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))


Around = Callable[[nn.Module, str], AbstractContextManager]


def statistics(
    engine, sequences: Sequence[Sequence[int]], around: Around = lambda module, prefix: nullcontext()
) -> Iterator[tuple[str, dict[str, Statistics]]]:
    """(module, its linears' Statistics) for each decoder layer of this rank and for the head.

    All ranks call it, and go through it to the end. Each layer, and the last norm, runs within
    `around`, which may fill in its weights; the head itself need not run.
    """
    if not sum(map(len, sequences)):
        raise ConvertError("the calibration text has no tokens; give --calibrate a file with some pages of text")
    stage = engine.stage
    with torch.inference_mode():
        inputs = [engine.inputs(tokens) for tokens in sequences]
        states, places = [stage.enter(hidden) for hidden, *_ in inputs], [rest for _, *rest in inputs]
    del inputs
    for number, layer in stage.layers.items():
        name = stage.family.layer(number)
        with around(layer, name), torch.inference_mode(), gathering(layer, name, holding := Holding()) as sums:
            for i, (cos, sin, mask) in enumerate(places):
                holding.now = is_held(i)
                states[i] = layer(states[i], attention_mask=mask, position_embeddings=(cos, sin))
        yield name, _finished(sums)
    with torch.inference_mode():
        for hidden in states:
            for peer in stage.targets:
                hidden = operators.send(hidden, WORLD, peer)
        if not stage.head:
            return
        norm, total = stage.of(NORM), _Sums(engine.facts.hidden)
        with around(norm, stage.family.path(NORM)):
            for i, hidden in enumerate(states):
                total.add(norm(hidden)[0], is_held(i))
    yield stage.family.path(HEAD), {stage.family.head: total.statistics()}


def is_held(sequence: int) -> bool:
    return sequence % HELD == HELD - 1


def _finished(sums: dict[str, _Sums]) -> dict[str, Statistics]:
    done = {id(s): s.statistics() for s in sums.values()}
    return {name: done[id(s)] for name, s in sums.items()}
