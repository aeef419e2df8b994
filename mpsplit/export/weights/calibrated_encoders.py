"""What calibration makes of each weight, layer by layer while the files are written.

In: a Calibration, every rank of a partition. Out: encoders of weights, by name.

A rank writes its matrices in the order of its layers. When the first one of a layer is needed, that
layer's weights come from the checkpoint, and the tokens go through it in float32 on all ranks of
its stage. AWQ's scales are chosen; then its weights leave again, and its matrices are encoded. What
AWQ does to norms and biases is remembered: they are written last.

Invariant: one layer's weights or second moments are in memory, never the model's. All ranks go
through all of their layers, whatever is on their disks already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mpsplit.comm import Communicator
from mpsplit.export.model.model_origin import Origin
from mpsplit.export.trace import operators
from mpsplit.export.trace.slicing import shapes_alone
from mpsplit.export.trace.torch_engine import TorchEngine
from mpsplit.export.weights import awq
from mpsplit.export.weights.calibration_text import Calibration, check_calibration
from mpsplit.export.weights.encode import Encoder, Integers, Verdict
from mpsplit.export.weights.gptq import factor
from mpsplit.export.weights.input_statistics import Statistics, filled, statistics
from mpsplit.families.roles import HEAD
from mpsplit.package.collectives import STAGE
from mpsplit.package.json_fields import many, whole
from mpsplit.package.manifest import Manifest
from mpsplit.package.manifest_fields import BYTES
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.exchanged import exchanged, plain
from mpsplit.plan.cuts import owned_part, source_of

Judged = tuple[np.ndarray, np.ndarray | None]  # GPTQ's factor, and second moments to judge by


class Calibrated:
    """`tell` hears what is being worked on; `key` stands for all that decides what comes out, the
    machine's way of rounding included."""

    def __init__(
        self, calibration: Calibration, recipe: Recipe, partition: Manifest, origin: Origin, comm: Communicator
    ):
        check_calibration(recipe, partition, comm.size)
        self.calibration, self.recipe = calibration, recipe
        self.partition, self.model, self.comm = partition, origin.folder, comm
        self.shard, self.family = partition.plan.shards[comm.rank], partition.facts.family
        machine = torch.__version__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
        self.key = repr((calibration, recipe, partition.plan, origin.files, machine))
        self.tell: Callable[[str, int], None] = lambda name, count: None
        self._scalings: dict[str, awq.Scaling] = {}
        self._of: dict[str, Statistics] = {}  # of the layer where we are
        self._passed: set[str] = set()
        self._encoders: dict[str, Encoder] = {}  # the last one alone
        self._last_factor: tuple[Statistics, Judged] | None = None
        self.verdict = Verdict()
        self._layers = self._calibrate()

    def encoder_of(self, name: str, how: Quantisation) -> Awaited:
        return Awaited(name, how, self)

    def encoder(self, name: str, how: Quantisation) -> Encoder:
        """Of a weight of a layer not earlier than the last one; of what is not rounded, at any
        time."""
        if name not in self._encoders:
            self._reach(self._module_of(name))
            rounded = how.bits not in (0, BFLOAT) and "gptq" in self.calibration.method
            u, held = self._factor(name) if rounded else (None, None)
            scaling = self._scalings.get(name)
            self._encoders = {name: Encoder(how, self.recipe.scales, scaling, u, held, self.verdict)}
        return self._encoders[name]

    def _module_of(self, weight: str) -> str:
        """As statistics() names them; the last norm goes with the head."""
        layer = self.family.layer_of(weight)
        return self.family.path(HEAD) if layer is None else self.family.layer(layer)

    def finish(self) -> None:
        """Goes through what this rank has no need of, for the others."""
        self._forget()
        for _ in self._layers:
            self._forget()

    def verdict_of_all(self) -> Verdict:
        """Of all ranks together."""
        mine = [self.verdict.better, self.verdict.rows]
        better, rows = zip(*exchanged(self.comm, mine, plain(many(whole(0, BYTES), 2))), strict=True)
        return Verdict(sum(better), sum(rows))

    def _reach(self, layer: str) -> None:
        while layer not in self._passed:
            self._forget()
            self._passed.add(next(self._layers))

    def _forget(self) -> None:
        """What is of one layer alone, before the next one takes its room."""
        self._of, self._encoders, self._last_factor = {}, {}, None

    def _factor(self, name: str) -> Judged:
        """GPTQ's, and the held-back text's, the same for all weights that read one tensor."""
        of = self._of[name]
        if self._last_factor and self._last_factor[0] is of:
            return self._last_factor[1]
        self._last_factor = None  # before the next one takes its room
        scaled = self._scalings.get(name, awq.Scaling()).statistics(of)
        self._last_factor = of, (factor(scaled.hessian), scaled.held)
        return self._last_factor[1]

    def _calibrate(self) -> Iterator[str]:
        """The names of this rank's layers and of the head, once their Statistics are here and their
        scales chosen."""
        engine = TorchEngine(self.partition, self.model, self.comm, shapes_alone)

        def around(module: torch.nn.Module, prefix: str):
            self.tell(f"calibrates {prefix}", 0)
            return filled(module, prefix, engine.weight)

        try:
            for layer, of in statistics(engine, self.calibration.sequences, around):
                self._of = of
                del of  # nobody else has it when the next layer runs
                self._scale(engine, layer)
                yield layer
            if not len(self.shard.head) and self.shard.stage == self.partition.plan.shards[-1].stage:
                # of which it has no rows, but others of its stage do
                self._scale(engine, self.family.path(HEAD))
        finally:
            engine.close()

    def _scale(self, engine: TorchEngine, layer: str) -> None:
        if "awq" not in self.calibration.method:
            return
        of_layer = layer != self.family.path(HEAD)
        prefix, folds = (f"{layer}.", awq.folds_of(self.family)) if of_layer else ("", self._head_folds)
        names = {name.removeprefix(prefix): name for name in self._of}  # by that within the layer
        scalings = awq.scalings(
            awq.Layer(
                {inside: self._sample(engine, name) for inside, name in names.items()},
                {inside: self._of[name] for inside, name in names.items()},
                len(self.shard.heads),
                len(self.shard.kv_heads),
            ),
            folds,
            lambda inside: self.recipe.kind_of(prefix + inside),
            self.recipe.scales,
            _sum_over_stage,
        )
        self._scalings |= {prefix + inside: scaling for inside, scaling in scalings.items()}

    @property
    def _head_folds(self) -> list[awq.Fold]:
        """None where the head's matrix is the embedding too, which must stay what it is."""
        return [] if self.partition.dtype == HEAD_ROWS else [awq.head_fold(self.family)]

    def _sample(self, engine: TorchEngine, name: str) -> np.ndarray:
        """Rows of this rank's part, from all over it."""
        source, part = source_of(name, engine.facts), owned_part(name, self.shard, engine.facts)
        rows = part.shape_of(engine.checkpoint.entries[source].shape)[0]
        sampled = range(0, rows, max(1, rows // awq.SAMPLE))
        return np.concatenate([engine.checkpoint.floats(source, part, i, i + 1) for i in sampled])


@dataclass(frozen=True)
class Awaited:
    """An encoder that is known once its layer has been calibrated; of an array that is stored as it
    is (0 bits), what AWQ does to it."""

    name: str
    how: Quantisation
    calibrated: Calibrated

    @property
    def text(self) -> str:
        """All that decides the bytes, but for the rows and what else the checkpoint has."""
        return f"{self.how.address} {self.calibrated.key}"

    def __call__(self, rows: np.ndarray, first: int = 0) -> np.ndarray:
        return self.calibrated.encoder(self.name, self.how)(rows, first)

    def integers(self, rows: np.ndarray, first: int = 0) -> Integers:
        return self.calibrated.encoder(self.name, self.how).integers(rows, first)


def _sum_over_stage(losses: np.ndarray) -> np.ndarray:
    return operators.all_reduce(torch.from_numpy(losses.astype(np.float32)), STAGE).numpy()
