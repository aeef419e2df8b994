"""The engine of a package that IREE compiled: a program a part, and our communicator between them.

In: a package, a communicator. Out: an Engine. Keys and values of a request go into each attention's
program and come out longer; they stay where IREE has them.

Invariant: all ranks take their steps in the order of parts.json, so their collectives meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.package.manifest import Manifest, rank_folder
from mpsplit.package.stored.parts_json import CODE, HIDDEN, LOGITS, TOKENS, WEIGHTS, RankParts, Step
from mpsplit.runtime.engine.engine_protocol import Numbers, Span
from mpsplit.runtime.engine.positions import HIDDEN_FROM_SIGHT, causal_mask
from mpsplit.runtime.engine.replay import ReplayingEngine
from mpsplit.runtime.iree.iree_program import Given, IreeProgram

# IREE has no array without a row: each cache begins with one that the mask hides
UNSEEN = 1


class IreeEngine(ReplayingEngine):
    name = "iree"

    def __init__(self, package: Path, manifest: Manifest, comm: Communicator, threads: int):
        super().__init__(manifest, comm)
        folder = rank_folder(package, comm.rank)
        self.parts = RankParts.load(folder)
        self.parts.built.check(f"rank {comm.rank} of {package}")
        self.programs = {
            step.weights: IreeProgram(folder / (step.program + CODE), folder / (step.weights + WEIGHTS), threads, where)
            for step in self.parts.steps
            if step.program
            for where in [f"rank {comm.rank}, {step.weights}"]
        }

    def reserve(self, pages: int, stored: str) -> None:
        if stored != "f32":
            raise RunError(f"by IREE keys and values are f32; leave out --kv {stored}, or convert with ncnn")
        self._forget()

    def close(self) -> None:
        self._past.clear()
        for program in self.programs.values():
            program.close()

    def _feed(self, tokens: Numbers, span: Span, every_row: bool) -> np.ndarray:
        start, again = self.pages.feed(tokens, span, span.slot)
        ids = np.asarray(again, np.int64)
        count, wanted = len(ids), span.length if every_row else 1
        mask = causal_mask(start, count, self.manifest.facts.window)
        values: dict[str, Given] = {
            TOKENS: ids,
            HIDDEN: np.zeros((1, count, self.manifest.facts.hidden), np.float32),
            "cos": self.cos[None, start : start + count],
            "sin": self.sin[None, start : start + count],
            "mask": np.pad(mask, ((0, 0), (UNSEEN, 0)), constant_values=HIDDEN_FROM_SIGHT),
        }
        past = self._past[span.slot] if start else [self._empty()] * (2 * self.parts.attentions)
        now: list[Given] = []
        for step in self.parts.steps:
            if LOGITS in step.gives and wanted < count:  # of the last rows alone
                values |= {name: np.ascontiguousarray(_host(values[name])[:, -wanted:]) for name in step.takes}
            if step.call:
                [name], [given] = step.gives, step.takes
                values[name] = self._between(step, values[given])
            else:
                found = self._run(step, values, past, count)
                values |= zip(step.gives, found, strict=False)
                now += found[len(step.gives) :]
        self._past[span.slot] = now
        if not len(self.vocabulary):
            return np.zeros((wanted, 0), np.float32)
        return np.array(_host(values[LOGITS])[0])

    def _run(self, step: Step, values: Mapping[str, Given], past: Sequence[Given], length: int) -> Sequence[Given]:
        """What it gives, and its attentions' keys and values."""
        caches = [past[2 * number + kind] for number in step.attentions for kind in (0, 1)]
        found = self.programs[step.weights](*(values[name] for name in step.takes), *caches, length=length)
        assert len(found) == len(step.gives) + len(caches), f"{step.weights} gave {len(found)} arrays"
        return found

    def _between(self, step: Step, given: Given) -> np.ndarray:
        assert step.call
        group, *rest = step.call.arguments
        array = np.array(_host(given))
        BETWEEN[step.call.operator](self.groups[group], array, rest)
        return array

    def _empty(self) -> np.ndarray:
        return np.zeros((1, len(self.shard.kv_heads), UNSEEN, self.manifest.facts.head_dim), np.float32)


# what plans have, each in place
BETWEEN: dict[str, Callable[[Communicator, np.ndarray, Sequence[int]], None]] = {
    "all_reduce": lambda group, array, _: group.all_reduce(array),
    "send": lambda group, array, peer: group.send(array, *peer),
    "recv": lambda group, array, peer: group.recv(array, *peer),
}


def _host(array: Given) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.to_host()
