"""How fast a rank's engine is: by how weights are stored, beside them, and in attention.

In: an Effort. Out: rates.

Invariant: everything but bfloat16 goes through the engine that will run, on packages of
probe_package.py, and has a file's worth of memory to itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mpsplit.comm import Alone
from mpsplit.measure.probe_bfloat16 import Bfloat16
from mpsplit.measure.probe_package import (
    VOCABULARY,
    elements,
    facts_of,
    large_files,
    scratch_folder,
    stored_bytes,
    write_package,
)
from mpsplit.native.cpp import kernels
from mpsplit.package.stored.quantisation import KINDS
from mpsplit.plan.cluster import READ_AS, Measured, Rate
from mpsplit.plan.model_facts import ModelFacts

ROWS = 128  # of a prefill step


@dataclass(frozen=True)
class Effort:
    """How much is measured with. Sizes in bytes; `deep` and `fill` in tokens."""

    seconds: float = 20.0  # of all rounds together, as far as `rounds` allows
    rounds: tuple[int, int] = (5, 12)  # at least, at most
    hidden: int = 2048
    mlp: int = 5632
    heads: int = 32
    kv_heads: int = 4
    head_dim: int = 64
    weights: int = 256 << 20  # that a decode step reads: more than caches hold
    read: int = 320 << 20
    cache: int = 64 << 20  # of keys and values that a step at `deep` reads
    deep: int = 512
    fill: int = 1024  # tokens in the cache when prefill's attention is measured
    steps: int = 3  # of each kind in a round
    disk: int = 256 << 20

    def within(self, memory: int) -> Effort:
        """As much of it as a rank's memory allows.

        What is read takes no more than a sixteenth of it, a layer of float32 no more than a
        quarter.
        """
        if 4 * elements(self.facts(1, ROWS)) > memory // 4:
            parts = ("hidden", "mlp", "heads", "kv_heads")
            return replace(self, **{name: max(1, getattr(self, name) // 2) for name in parts}).within(memory)
        sizes = ("weights", "read", "cache")
        return replace(self, **{name: min(getattr(self, name), memory // 16) for name in sizes})

    def facts(self, layers: int, context: int) -> ModelFacts:
        return facts_of(self.hidden, self.mlp, self.heads, self.kv_heads, self.head_dim, layers, context)


class Stack:
    """An engine over a package of noise; the files are gone once it is loaded."""

    def __init__(self, engine: type, facts: ModelFacts, kind: str, threads: int):
        self.position = 0  # tokens behind the cache
        self.facts, self.bytes, self.elements = facts, stored_bytes(facts, kind), elements(facts)
        with scratch_folder(*large_files(kind)) as folder:
            self.engine = engine(folder, write_package(folder, facts, kind), Alone(), threads)

    def seconds(self, rows: int, position: int = 0) -> float:
        tokens = np.arange(rows) % VOCABULARY
        began = time.perf_counter()
        self.engine.step(tokens, position)
        self.position = position + rows
        return time.perf_counter() - began

    def fill(self, tokens: int) -> None:
        for position in range(0, tokens, ROWS):
            self.seconds(ROWS, position)


def difference(more: float, less: float) -> float:
    """Of two times. Noise can make it negative, which no time is: then it is next to nothing."""
    return max(more - less, more / 100)


def kinds_here() -> tuple[str, ...]:
    """How weights may be stored on this machine."""
    measured = (kind for kind in KINDS if kind not in READ_AS)
    return tuple(kind for kind in measured if not KINDS[kind] or kernels(required=False)) + ("bf16",)


class EngineProbe:
    """The stacks of one rank, in this class of engine.

    `samples` are functions of which each gives one number a round.
    """

    def __init__(self, engine: type, effort: Effort, kinds: tuple[str, ...], threads: int):
        self.effort, self.threads = effort, threads
        self.engine = engine
        cheap = "q4" if "q4" in kinds else "f32"
        tiny = facts_of(64, 96, 8, 4, 8, layers=1, context=ROWS)
        self.one_layer, self.many_layers = (self.stack(replace(tiny, layers=n), cheap) for n in (1, 33))
        self.wide = {kind: self._wide(kind, effort.weights) for kind in kinds}
        # for prefill, where a whole stack would take too long
        self.single = {kind: self._wide(kind, 0) for kind in kinds}
        self._attention(cheap)

    def stack(self, facts: ModelFacts, kind: str) -> Stack:
        return Stack(self.engine, facts, kind, self.threads)

    def _wide(self, kind: str, size: int) -> Stack | Bfloat16:
        """A stack of about `size` bytes, of one layer at least."""
        if kind == "bf16":  # the native engine has none yet: the ncnn wheel's own
            return Bfloat16(self.effort.hidden, self.effort.mlp, size, self.threads)
        facts = self.effort.facts(1, ROWS)
        return self.stack(replace(facts, layers=max(1, round(size / stored_bytes(facts, kind)))), kind)

    def _attention(self, cheap: str) -> None:
        """Stacks whose weights are next to nothing: two for decode, a short one for prefill.

        Those for decode are a deep and a shallow one.
        """
        effort = self.effort
        token = 8 * effort.kv_heads * effort.head_dim  # bytes of keys and values a token and layer
        narrow = replace(effort, hidden=64, mlp=64).facts(1, ROWS)
        self.token_bytes = token * max(1, effort.cache // (token * effort.deep))
        layers = self.token_bytes // token
        self.deep = self.stack(replace(narrow, layers=layers, context=effort.deep + 16 * effort.rounds[1]), cheap)
        self.shallow = self.stack(replace(narrow, layers=layers), cheap)
        self.short = self.stack(replace(narrow, layers=2, context=effort.fill), cheap)
        self.deep.fill(effort.deep)

    @property
    def samples(self) -> dict[str, Callable[[], float]]:
        samples: dict[str, Callable[[], float]] = {
            "one layer": partial(self._tiny, self.one_layer),
            "many layers": partial(self._tiny, self.many_layers),
        }
        for kind in self.wide:
            samples[f"{kind} decode"] = partial(self._steps, self.wide[kind])
            samples[f"{kind} prefill"] = partial(self.single[kind].seconds, ROWS)
        return samples | {"attention decode": self._deeper, "attention prefill": self._fuller}

    def _tiny(self, stack: Stack) -> float:
        return statistics.median(stack.seconds(1) for _ in range(10 * self.effort.steps))

    def _steps(self, stack: Stack | Bfloat16) -> float:
        return statistics.median(stack.seconds(1) for _ in range(self.effort.steps))

    def _deeper(self) -> float:
        """Seconds that a token takes longer at `deep` than at 0."""
        deep = statistics.median(self.deep.seconds(1, self.deep.position) for _ in range(self.effort.steps))
        return difference(deep, self._steps(self.shallow))

    def _fuller(self) -> float:
        """Seconds that filling the cache takes longer than if it stayed empty."""
        first = statistics.median(self.short.seconds(ROWS) for _ in range(self.effort.steps))
        rest = [self.short.seconds(ROWS, position) for position in range(ROWS, self.effort.fill, ROWS)]
        return difference(sum(rest), len(rest) * first)

    def fields_of(self, samples: dict[str, list[float]]) -> dict[str, Any]:
        """The fields of a Device that these samples make; samples[name] has one number a round."""
        single = samples["one layer"]
        layers = [difference(many, few) / 32 for few, many in zip(single, samples["many layers"], strict=True)]
        layer = Measured.of(layers)
        step = Measured.of([difference(seconds, a_layer) for seconds, a_layer in zip(single, layers, strict=True)])
        kinds = {}
        for kind, stack in self.wide.items():
            beside = stack.facts.layers * layer.value + step.value if isinstance(stack, Stack) else 0.0
            flop = 2 * ROWS * self.single[kind].elements
            kinds[kind] = Rate(
                Measured.of([stack.bytes / difference(t, beside) for t in samples[f"{kind} decode"]]),
                Measured.of([flop / t for t in samples[f"{kind} prefill"]]),
            )
        return {
            "layer_seconds": layer,
            "step_seconds": step,
            "kinds": kinds,
            "attention": self._attention_rate(samples),
        }

    def _attention_rate(self, samples: dict[str, list[float]]) -> Rate:
        effort = self.effort
        seen = sum(range(ROWS, effort.fill, ROWS))  # positions before each step's own
        flop = 4 * effort.heads * effort.head_dim * ROWS * seen * self.short.facts.layers
        return Rate(
            Measured.of([effort.deep * self.token_bytes / t for t in samples["attention decode"]]),
            Measured.of([flop / t for t in samples["attention prefill"]]),
        )
