"""Where a package and its original part.

In: what the package has after each half of a layer. Out: a PartAgreement for each part.

An early error makes all that follows differ. So each part is also judged by itself: the original's
part is given the package's own input.

Invariant: what the ranks of a stage have in common is taken from its first rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.agreement import PartAgreement
from mpsplit.package.inside.anatomy import anatomy
from mpsplit.package.manifest import FUSED, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.loop.all_logits import all_logits
from mpsplit.runtime.loop.orders import LEAD

if TYPE_CHECKING:
    from mpsplit.check.original_model import Change, Layer, Original


@dataclass(frozen=True)
class States:
    """Of the package: `stream` is [2 * layers + 1, length, hidden], the hidden state before the
    first layer and after each half layer."""

    tokens: tuple[int, ...]
    stream: np.ndarray
    logits: np.ndarray


@runtime_checkable
class KeepsStates(Protocol):
    """An engine that shows what is between its layers: the native one, and the torch one."""

    def keep(self, blobs: Sequence[str]) -> None:
        """From now on these blobs stay after a step."""

    def blob(self, name: str) -> np.ndarray:
        """float32 [rows, columns] of one that was kept, since the last step."""


@runtime_checkable
class NamesStates(Protocol):
    """An engine without a graph that would say what its hidden states are called: the torch one."""

    stream: Sequence[str]


def shows_states(engine: Engine) -> bool:
    return isinstance(engine, KeepsStates)


def package_states(engine: Engine, comm: Communicator, package: Path, tokens: tuple[int, ...]) -> States | None:
    """On rank 0, with the help of all; None on the others."""
    if not isinstance(engine, KeepsStates):
        raise RunError(
            f"--layers needs the native engine or the torch engine, the {engine.name} engine does not show what is"
            " between its layers; leave --engine out, or run python -m mpsplit.native where it is not built"
        )
    plan, facts = engine.manifest.plan, engine.manifest.facts
    shard = plan.shards[comm.rank]
    blobs = _stream(engine, package, comm.rank)
    if len(blobs) != 2 * len(shard.layers) + 1:
        raise RunError(
            f"rank {comm.rank} shows {len(blobs)} hidden states for {len(shard.layers)} layers; convert again"
        )
    engine.keep(blobs)
    logits = all_logits(engine, comm, tokens)
    states = np.stack([engine.blob(name) for name in blobs])
    leads = [group[0] for group in plan.stages]
    if comm.rank != LEAD:
        if comm.rank in leads and len(shard.layers):
            comm.send(np.ascontiguousarray(states[1:]), LEAD)
        return None
    assert logits is not None, "rank 0 puts them together"
    stream = [states]
    for rank in leads[1:]:
        if count := len(plan.shards[rank].layers):
            stream.append(np.empty((2 * count, len(tokens), facts.hidden), np.float32))
            comm.recv(stream[-1], rank)
    return States(tokens, np.concatenate(stream), logits)


def _stream(engine: Engine, package: Path, rank: int) -> Sequence[str]:
    """The names of the hidden states: what enters the rank's first layer, then two a layer."""
    if isinstance(engine, NamesStates):
        return engine.stream
    graph = Param.load(rank_folder(package, rank) / FUSED)
    return anatomy(graph, engine.manifest.plan.shards[rank].layers.start).stream


class Witness:
    """Sees the original's layers pass, one after the other."""

    def __init__(self, original: Original, states: States, embedding: Change, head: Change):
        self.original, self.states, self.head = original, states, head
        self.hidden = original.embed(states.tokens)  # the original's own
        plain = original.embed(states.tokens, embedding)
        self.seen = [_part(None, "embedding", states.stream[0], self.hidden, self.hidden, plain, 0, np.max)]

    def see(self, layer: Layer, plain: Layer) -> None:
        """`plain`: the same after plain rounding."""
        index = len(self.seen) // 2
        before, between, after = map(_tensor, self.states.stream[2 * index : 2 * index + 3])
        step = layer(self.hidden)
        # what the package should have made of what it had, and what plain rounding makes of it
        attention, mlp = (
            (half(layer), half(plain))
            for half in (lambda layer: layer(before).attention, lambda layer: layer.mlp(between))
        )
        self.seen += [
            _part(index, "attention", between, step.attention, *attention, before),
            _part(index, "mlp", after, step.mlp, *mlp, between),
        ]
        self.hidden = step.mlp

    def parts(self) -> tuple[PartAgreement, ...]:
        """All of them, once every layer has passed."""
        last, of = _tensor(self.states.stream[-1]), self.original.logits
        head = _part(None, "head", self.states.logits, of(self.hidden), of(last), of(last, self.head), 0)
        return (*self.seen, head)


def _part(layer: int | None, name: str, package, original, due, plain, before, over=np.median) -> PartAgreement:
    """All [length, n]: what the package has, the original has, the package should have, plain
    rounding would have, and there was before.

    A token that a model gives much larger states than all others does not speak for them: the
    median position does. Rows of the embedding are damaged one by one.
    """
    package, original, due, plain, before = (np.asarray(x, np.float64) for x in (package, original, due, plain, before))
    if not np.isfinite(package).all():
        return PartAgreement(layer, name, np.inf, np.inf, np.inf)
    norm = np.linalg.norm
    cosine = (package * original).sum(-1) / np.maximum(norm(package, axis=-1) * norm(original, axis=-1), TINY)
    off, rounding = (norm(x - due, axis=-1) / np.maximum(norm(due - before, axis=-1), TINY) for x in (package, plain))
    largest = float(np.abs(package - original).max())
    return PartAgreement(layer, name, largest, float(cosine.mean()), float(over(off)), float(over(rounding)))


TINY = 1e-30


def _tensor(array: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))
