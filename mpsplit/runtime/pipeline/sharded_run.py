"""The schedule of a pipeline whose stages have shards: ranks go on in turns.

In: a rank's stages and shards, a communicator. Out: outputs on rank 0, one input after the other.

In each turn every rank runs its stages on one input, and helps with the shards of others' stages;
then each value goes on to the next rank. Rank 0 tells all which length comes in.

Invariant: all work of a turn has one order: the first stages of all ranks, then the second ones,
each in the order of the ranks, then what is handed on. Each rank does its part of it in that order.
So nobody waits in a circle, and stages without shards run side by side.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.runtime.pipeline.nets.stage_net import Arrays, StageNet
from mpsplit.runtime.pipeline.pipeline_run import NO_MORE, PipelineRun
from mpsplit.runtime.pipeline.rank_ring import LEAD
from mpsplit.runtime.pipeline.shard_work import ShardWork

NOTHING = -1  # comes in: what is on its way goes on


class ShardedRun(PipelineRun):
    def __init__(self, pipeline: Pipeline, nets: Sequence[StageNet], work: ShardWork, comm: Communicator):
        super().__init__(pipeline, nets, comm)
        self.work = work
        self.turns = turns(pipeline)
        self.lengths = deque([0] * pipeline.depth)  # of the input at each rank
        self.here: dict[str, np.ndarray] = {}  # its values, at this one

    def lead(self, inputs: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]:
        flying: deque[dict[str, np.ndarray]] = deque()
        for given in inputs:
            length = self.length_of(given)
            flying.append(dict(given))
            yield from self._turn(length, flying)
        while any(list(self.lengths)[:-1]):
            yield from self._turn(NOTHING, flying)

    def end(self) -> None:
        self.comm.tell(np.array([NO_MORE], np.int64))

    def follow(self) -> None:
        word = np.empty(1, np.int64)
        while self._listened(word) != NO_MORE:
            self._work(int(word[0]))

    def _listened(self, word: np.ndarray) -> int:
        self.comm.listen(word)
        return int(word[0])

    def _turn(self, word: int, flying: deque[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """On rank 0. What comes out is the answer to the first that is on its way."""
        self.comm.tell(np.array([word], np.int64))
        if word != NOTHING:
            self.here = flying[-1]
        self._work(word)
        if length := self.lengths[-1]:
            values = flying.popleft()
            last = self.pipeline.depth - 1
            if last != LEAD:
                values |= {name: self._receive(name, length, last) for name in self.last.answers}
            yield {output: values[name] for output, name in self.pipeline.outputs.items()}

    def _work(self, word: int) -> None:
        """This rank's part of a turn."""
        self.lengths.pop()
        self.lengths.appendleft(max(word, 0))
        mine = iter(range(len(self.nets)))
        for number in self.turns:
            stage = self.pipeline.stages[number]
            own = next(mine) if stage.rank == self.comm.rank else None
            if not (length := self.lengths[stage.rank]):
                continue
            if own is None:
                self.work.help(number, length)
                continue
            began = time.perf_counter()
            self.here |= self.nets[own].run(self.here, length, partial(self.work.lead, number))
            self.seconds[own] += time.perf_counter() - began
        if self.comm.rank < self.pipeline.depth:
            self._go_on()

    def _go_on(self) -> None:
        """From each rank to the next one, and from the last one to rank 0."""
        rank, values = self.comm.rank, self.here
        self.inputs += bool(self.lengths[rank])
        if rank != LEAD and (length := self.lengths[rank - 1]):
            self.here = {name: self._receive(name, length, rank - 1) for name in self.mine.takes}
        if self.lengths[rank]:
            for name in self.mine.gives:
                self.comm.send(values[name], rank + 1)
            for name in self.mine.answers:
                self.comm.send(values[name], LEAD)


def turns(pipeline: Pipeline) -> list[int]:
    """All stages in the order of a turn."""
    place: dict[int, int] = {}
    order = []
    for number, stage in enumerate(pipeline.stages):
        place[stage.rank] = place.get(stage.rank, -1) + 1
        order.append((place[stage.rank], stage.rank, number))
    return [number for _, _, number in sorted(order)]
