"""One rank's sliced modules as an engine that `mpsplit verify` can step.

In: a partition, the model's directory, a communicator. Out: what runtime's Engine promises, of the
split alone, before it is traced and converted. It is for comparing, not for talking.

Invariant: every step computes the whole prefix again, which needs no cache and is right by
construction. Rows of the embedding are read when they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mpsplit.comm import Communicator
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.trace import operators
from mpsplit.export.trace.slicing import Fill, build_whole, from_checkpoint, rotary_of, slice_model
from mpsplit.families.roles import MLP_NORM
from mpsplit.package.collectives import STAGE, WORLD
from mpsplit.package.manifest import Manifest
from mpsplit.plan.cuts import owned_part


class TorchEngine:
    name = "torch"
    seconds = 0.0  # between ranks: not counted, nobody measures this engine

    def __init__(self, manifest: Manifest, folder: Path, comm: Communicator, fill: Fill | None = None):
        """`fill`: what the modules hold, None for their weights."""
        self.rank, self.manifest, self.facts = comm.rank, manifest, manifest.facts
        self.shard = shard = manifest.plan.shards[comm.rank]
        self.vocabulary = shard.head
        self.checkpoint = checkpoint_of(folder)
        operators.connect({WORLD: range(manifest.plan.ranks), STAGE: manifest.plan.group(comm.rank)})
        model = build_whole(folder)
        self.rotary = rotary_of(model, self.facts.family)
        self._read = from_checkpoint(self.checkpoint, self.facts)
        self.stage = slice_model(model, manifest.plan, comm.rank, self.facts, fill or self._read)
        self.tokens: list[int] = []
        halves = [f"{layer}.{half}" for layer in shard.layers for half in ("attention", "mlp")]
        # the hidden states: before the first layer, after each half of a layer
        self.stream = ("hidden", *halves)
        self._kept: dict[str, torch.Tensor] = {}

    def keep(self, blobs: Sequence[str]) -> None:
        """From now on these of `stream` stay after a step."""
        layers = self.stage.layers
        for name in blobs:
            layer, _, half = name.partition(".")
            if half == "mlp":
                layers[layer].register_forward_hook(lambda _, x, out, name=name: self._see(name, out))
            elif half == "attention":  # what the second norm reads, or what stands in its place
                norm = layers[layer].get_submodule(self.facts.family.inside(MLP_NORM))
                norm.register_forward_pre_hook(lambda _, x, name=name: self._see(name, x[0]))
            elif len(layers):
                first = next(iter(layers.values()))
                first.register_forward_pre_hook(lambda _, x, name=name: self._see(name, x[0]))

    def blob(self, name: str) -> np.ndarray:
        """float32 [tokens so far, hidden] of one that was kept, since the last step."""
        return self._kept[name][0].numpy()

    @property
    def position(self) -> int:
        return len(self.tokens)

    @property
    def bytes_sent(self) -> int:
        return operators.bytes_sent()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], position: int, every_row: bool = False) -> np.ndarray:
        assert position in (0, self.position), f"step at {position}, but {self.position} tokens came before"
        self.tokens = [*self.tokens[:position], *tokens]
        first = position if every_row else self.position - 1
        out = self.stage(*self.inputs(self.tokens))
        if not len(self.stage.layers):
            self._see(self.stream[0], out[0])
        if not len(self.vocabulary):
            return np.zeros((self.position - first, 0), np.float32)
        return out[1][0, first:].numpy()

    def weight(self, name: str) -> torch.Tensor:
        """This rank's part, in float32, from the checkpoint."""
        part = owned_part(name, self.shard, self.facts)
        return self._read(name, part, ())

    def close(self) -> None:
        self.checkpoint.close()
        operators.connect({WORLD: (), STAGE: ()})

    def inputs(self, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the Stage takes: hidden, cos, sin and the mask."""
        hidden = self._embedded(tokens)
        return hidden, *self.rotary(hidden, torch.arange(len(tokens))[None]), self._mask(len(tokens))

    def _embedded(self, tokens: Sequence[int]) -> torch.Tensor:
        """[1, length, hidden]; zeros for tokens whose rows another rank owns."""
        rows, mine = np.zeros((len(tokens), self.facts.hidden), np.float32), self.shard.embed
        for i, token in enumerate(tokens):
            if mine.start <= token < mine.stop:
                rows[i] = self.checkpoint.floats(self.facts.family.embedding, start=token, stop=token + 1)
        return torch.from_numpy(rows)[None]

    def _see(self, name: str, hidden: torch.Tensor) -> None:
        self._kept[name] = hidden

    def _mask(self, length: int) -> torch.Tensor:
        """[length, length], added to the scores: a token sees itself and what came before, `window`
        of it if not 0."""
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        if window := self.facts.window:
            seen &= ~seen.tril(-window)
        return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
