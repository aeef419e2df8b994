"""The schedule of a pipeline: several inputs in flight, rank 0 leads.

In: a rank's stages, a communicator. Out: outputs on rank 0, one input after the other.

A rank takes an input's values from the rank before it, runs its stages, and hands on to the next
one. Before the values goes the length, or that there are no more inputs.

Invariant: also where a message waits for its receiver, nobody waits in a circle: rank 0 takes an
answer in before it sends what would be one input too many. Each rank can be at work on its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.package.stages.growing_shapes import length_of, numbers
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.runtime.pipeline.nets.stage_net import Arrays, StageNet
from mpsplit.runtime.pipeline.rank_ring import LEAD, Routes, routes

NO_MORE = 0


class PipelineRun:
    """`nets`: this rank's stages in order. `seconds`: that each of them has taken, for `inputs`."""

    def __init__(self, pipeline: Pipeline, nets: Sequence[StageNet], comm: Communicator):
        self.pipeline, self.nets, self.comm = pipeline, nets, comm
        of_ranks = routes(pipeline)
        self.mine = of_ranks[comm.rank] if comm.rank < len(of_ranks) else Routes((), (), ())
        self.last = of_ranks[-1]
        self.seconds, self.inputs = [0.0] * len(nets), 0

    def lead(self, inputs: Iterable[Arrays]) -> Iterator[dict[str, np.ndarray]]:
        """On rank 0: the model's outputs of each input, in their order."""
        flying: deque[tuple[dict[str, np.ndarray], int]] = deque()
        most = max(self.comm.size - 2, 0)
        for given in inputs:
            length = self.length_of(given)
            values = self._compute(dict(given), length)
            while len(flying) > most:
                yield self._answer(*flying.popleft())
            self._hand_on(values, length)
            flying.append((values, length))
        while flying:
            yield self._answer(*flying.popleft())

    def end(self) -> None:
        """On rank 0: there are no more inputs, and the others may go."""
        self._tell(NO_MORE)

    def follow(self) -> None:
        """On the other ranks, until there are no more inputs."""
        while (length := self._heard()) != NO_MORE:
            values = {name: self._receive(name, length, self.comm.rank - 1) for name in self.mine.takes}
            self._hand_on(self._compute(values, length), length)
            for name in self.mine.answers:
                self.comm.send(values[name], LEAD)
        self._tell(NO_MORE)

    def length_of(self, given: Arrays) -> int:
        """Of an input, when its arrays are what the model takes."""
        shapes = {name: self.pipeline.values[name].shape for name in self.pipeline.inputs}
        return length_of(shapes, {name: given[name].shape for name in shapes}, self.pipeline.longest)

    def _compute(self, values: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
        for number, net in enumerate(self.nets):
            began = time.perf_counter()
            values |= net.run(values, length)
            self.seconds[number] += time.perf_counter() - began
        self.inputs += 1
        return values

    def _hand_on(self, values: dict[str, np.ndarray], length: int) -> None:
        self._tell(length)
        for name in self.mine.gives:
            self.comm.send(values[name], self.comm.rank + 1)

    def _answer(self, values: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
        last = self.comm.size - 1
        if last != LEAD:
            values |= {name: self._receive(name, length, last) for name in self.last.answers}
        return {output: values[name] for output, name in self.pipeline.outputs.items()}

    def _receive(self, name: str, length: int, source: int) -> np.ndarray:
        value = self.pipeline.values[name]
        array = np.empty(numbers(value.shape, length), value.type)
        self.comm.recv(array, source)
        return array

    def _tell(self, length: int) -> None:
        if self.comm.rank + 1 < self.comm.size:
            self.comm.send(np.array([length], np.int64), self.comm.rank + 1)

    def _heard(self) -> int:
        length = np.empty(1, np.int64)
        self.comm.recv(length, self.comm.rank - 1)
        return int(length[0])
