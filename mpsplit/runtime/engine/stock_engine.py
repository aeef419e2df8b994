"""The first engine: the ncnn wheel, Python layers for the collectives.

Slow, right, and the oracle of every other engine.

In: a package, a communicator. Out: an Engine. Invariant: all ranks extract the same blobs in the
same order; ncnn runs layers on demand, so another order would make collectives wait for each other.
"""

from __future__ import annotations

from pathlib import Path

import ncnn
import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import PackageError, RunError
from mpsplit.package.manifest import GRAPH, Manifest, rank_folder
from mpsplit.package.stored.embedding_rows import embedding_rows
from mpsplit.package.stored.weight_files import Packed, WeightFiles
from mpsplit.runtime.engine import collective_layers, quantised_layer
from mpsplit.runtime.engine.engine_protocol import Numbers, Span
from mpsplit.runtime.engine.positions import causal_mask
from mpsplit.runtime.engine.replay import ReplayingEngine

RAW = 1  # extract a cache blob as it lies: its layout is ncnn's own, and comes back untouched


class StockEngine(ReplayingEngine):
    name = "stock"

    def __init__(self, package: Path, manifest: Manifest, comm: Communicator, threads: int):
        super().__init__(manifest, comm)
        self.first_stage = self.shard.stage == 0
        self.caches = [f"{kind}{i}" for i in range(self.shard.attentions) for kind in "kv"]
        folder = rank_folder(package, comm.rank)
        files = WeightFiles.load(folder)
        if self.first_stage:
            self.embedding = embedding_rows(package, manifest, comm.rank)

        self.net = ncnn.Net()
        # the kernels and the wheel each have an OpenMP of their own: two sets of threads would
        # fight for the same cores
        exact(self.net.opt, 1 if files.packed else threads)
        self._layers = collective_layers.register(self.net, self.groups)
        if files.packed:
            self._layers += quantised_layer.register(self.net, Packed.load(folder, files), threads)
        for name, load in ((GRAPH, self.net.load_param), (files.floats, self.net.load_model)):
            if load(str(folder / name)) != 0:
                raise PackageError(f"ncnn cannot load {folder / name}; convert the package again")

    def reserve(self, pages: int, stored: str) -> None:
        if stored != "f32":
            raise RunError(
                f"the stock engine's cache is ncnn's own, in f32; leave out --kv {stored}, or use the native engine"
            )
        self._forget()

    def _feed(self, tokens: Numbers, span: Span, every_row: bool) -> np.ndarray:
        start, again = self.pages.feed(tokens, span, span.slot)
        ids = np.asarray(again, np.int64)
        stop = start + len(ids)
        window = self.manifest.facts.window
        inputs = {
            "hidden": self.embedding(ids)
            if self.first_stage
            else np.zeros((len(ids), self.manifest.facts.hidden), np.float32),
            "cos": self.cos[start:stop],
            "sin": self.sin[start:stop],
            "mask": causal_mask(start, len(ids), window),
        }
        past = self._past[span.slot] if start else [ncnn.Mat() for _ in self.caches]
        extractor = self.net.create_extractor()
        for name, array in inputs.items():
            if name == "hidden" or self.caches:  # without attention no other is in the graph
                extractor.input(name, owned(array))
        for name, cache in zip(self.caches, past, strict=True):
            extractor.input(f"past_{name}", cache)
        hidden = self._extract(extractor, "hidden_out")
        self._past[span.slot] = [self._extract(extractor, name, RAW) for name in self.caches]
        if not len(self.vocabulary):
            return np.zeros((span.length if every_row else 1, 0), np.float32)
        wanted = span.length if every_row else 1
        if wanted < len(ids):
            extractor = self.net.create_extractor()
            extractor.input("hidden_out", owned(hidden.numpy()[-wanted:]))
        return np.array(self._extract(extractor, "logits"))

    def close(self) -> None:
        self._past.clear()
        self.net.clear()

    def _extract(self, extractor: ncnn.Extractor, blob: str, kind: int = 0) -> ncnn.Mat:
        status, mat = extractor.extract(blob, kind)
        if status != 0:
            raise RunError(
                f"rank {self.comm.rank}: ncnn failed with {status} at {blob}; is there memory left for the context?"
            )
        return mat


def owned(array: np.ndarray) -> ncnn.Mat:
    """A Mat with memory of ncnn's own: around numpy's it has no padding, and ncnn reads past its
    end (NOTES: Mats own their memory)."""
    return ncnn.Mat(np.ascontiguousarray(array)).clone()


def exact(option: ncnn.Option, threads: int) -> None:
    """float32 throughout: nothing stored or computed in fewer bits than the package holds."""
    option.num_threads = threads
    option.use_vulkan_compute = False
    for narrow in ("fp16", "bf16", "int8"):
        for use in ("packed", "storage", "arithmetic"):
            name = f"use_{narrow}_{use}"
            if hasattr(option, name):
                setattr(option, name, False)
