"""The shards of a part of a stage, computed by several ranks at once.

In: on the stage's rank, what the part takes. Out: what it gives.

The stage's rank gives each other rank what its shard needs, computes its own, and takes in what the
others computed. Invariant: pieces are put together, or added, in the order of the shards: the bits
do not depend on who was first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.package.stages.growing_shapes import Shape, numbers
from mpsplit.package.stages.pipeline import Pipeline, Shard
from mpsplit.runtime.pipeline.nets.stage_net import StageNet


class ShardWork:
    """`nets`: of this rank's shards."""

    def __init__(self, pipeline: Pipeline, nets: Mapping[Shard, StageNet], comm: Communicator):
        self.pipeline, self.nets, self.comm = pipeline, nets, comm

    def lead(self, stage: int, place: int, x: np.ndarray, length: int) -> np.ndarray:
        """On the stage's rank."""
        part = self.pipeline.stages[stage].parts[place]
        pieces: list[np.ndarray] = []
        for shard, rank in enumerate(part.ranks):
            if rank != self.comm.rank:
                self.comm.send(part.for_shard(shard, x), rank)
        shape = self._shape(part.gives)
        for shard, rank in enumerate(part.ranks):
            pieces.append(np.empty(numbers(part.given(shard, shape), length), np.float32))
            if rank == self.comm.rank:
                pieces[-1] = self._computed(Shard(stage, place, shard), part.for_shard(shard, x), length)
        for piece, rank in zip(pieces, part.ranks, strict=True):
            if rank != self.comm.rank:
                self.comm.recv(piece, rank)
        return part.together(pieces, numbers(shape, length))

    def help(self, stage: int, length: int) -> None:
        """On another rank: all its shards of the stage."""
        lead = self.pipeline.stages[stage].rank
        for place, part in enumerate(self.pipeline.stages[stage].parts):
            if self.comm.rank in part.ranks:
                shard = part.ranks.index(self.comm.rank)
                x = np.empty(numbers(part.taken(shard, self._shape(part.takes)), length), np.float32)
                self.comm.recv(x, lead)
                self.comm.send(self._computed(Shard(stage, place, shard), x, length), lead)

    def _computed(self, shard: Shard, x: np.ndarray, length: int) -> np.ndarray:
        part = self.pipeline.stages[shard.stage].parts[shard.part]
        outputs = self.nets[shard].run({part.takes: x}, length)
        return part.without_zeros(shard.number, outputs[part.gives])

    def _shape(self, name: str) -> Shape:
        return self.pipeline.values[name].shape
