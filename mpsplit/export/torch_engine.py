"""One rank's sliced modules as an engine that `mpsplit verify` can step: the split alone, before it is traced and converted.

In: a partition, the model's directory, a communicator. Out: what runtime's Engine promises. Every step computes the
whole prefix again, which needs no cache and is right by construction; for comparing, not for talking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mpsplit.comm import Communicator
from mpsplit.errors import PackageError
from mpsplit.export import operators
from mpsplit.export.checkpoint import Checkpoint
from mpsplit.export.slicing import build_whole, slice_model
from mpsplit.package.collectives import STAGE, WORLD
from mpsplit.package.files import EmbeddingRows
from mpsplit.package.manifest import EMBED, Manifest, rank_folder


class TorchEngine:
    name = "torch"
    seconds = 0.0  # between ranks: not counted, nobody measures this engine

    def __init__(self, package: Path, manifest: Manifest, folder: Path, comm: Communicator):
        self.manifest, self.facts = manifest, manifest.facts
        shard = manifest.plan.shards[comm.rank]
        self.vocabulary = shard.head
        self.embedding = None  # outside the first stage
        if shard.stage == 0:
            rows = rank_folder(package, comm.rank) / EMBED
            if not rows.is_file():
                raise PackageError(f"rank {comm.rank} has no {rows} on this host; copy it here, or partition again")
            self.embedding = EmbeddingRows(rows, manifest.dtype, shard.embed.start, self.facts.hidden)
        operators.connect({WORLD: range(manifest.plan.ranks), STAGE: manifest.plan.group(comm.rank)})
        model = build_whole(folder)
        self.rotary = type(model.model.rotary_emb)(config=model.config)
        self.stage = slice_model(model, manifest.plan, comm.rank, self.facts, Checkpoint(folder))
        self.tokens: list[int] = []
        halves = [f"{layer}.{half}" for layer in shard.layers for half in ("attention", "mlp")]
        self.stream = ("hidden", *halves)  # the hidden states: before the first layer, after each half of a layer
        self._kept: dict[str, torch.Tensor] = {}

    def keep(self, blobs: Sequence[str]) -> None:
        """From now on these of `stream` stay after a step."""
        layers = self.stage.model.layers
        for name in blobs:
            layer, _, half = name.partition(".")
            if half == "mlp":
                layers[layer].register_forward_hook(lambda _, x, out, name=name: self._see(name, out))
            elif half == "attention":  # what the second norm reads, or what stands in its place
                norm = layers[layer].post_attention_layernorm
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
        if self.embedding is None:
            hidden = torch.zeros(1, self.position, self.facts.hidden)
        else:
            hidden = torch.from_numpy(self.embedding(np.array(self.tokens)))[None]
        cos, sin = self.rotary(hidden, torch.arange(self.position)[None])
        out = self.stage(hidden, cos, sin, self._mask())
        if not len(self.stage.model.layers):
            self._see(self.stream[0], out[0])
        if not len(self.vocabulary):
            return np.zeros((self.position - first, 0), np.float32)
        return out[1][0, first:].numpy()

    def close(self) -> None:
        operators.connect({WORLD: (), STAGE: ()})

    def _see(self, name: str, hidden: torch.Tensor) -> None:
        self._kept[name] = hidden

    def _mask(self) -> torch.Tensor:
        """[length, length], added to the scores: a token sees itself and what came before, `window` of it if not 0."""
        seen = torch.ones(self.position, self.position, dtype=torch.bool).tril()
        if window := self.facts.window:
            seen &= ~seen.tril(-window)
        return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
