"""One stage in ncnn: arrays in, arrays out.

In: the files of a stage. Out: a NcnnNet.
"""

from __future__ import annotations

from pathlib import Path

import ncnn
import numpy as np

from mpsplit.errors import PackageError, RunError
from mpsplit.package.stages.growing_shapes import numbers
from mpsplit.package.stages.pipeline import WHOLE, Pipeline, Stage
from mpsplit.package.stages.stage_arrays import check_stage_graph
from mpsplit.package.stages.stage_files import StageFiles
from mpsplit.package.stored.weight_files import Packed, WeightFiles
from mpsplit.runtime.engine import quantised_layer
from mpsplit.runtime.engine.stock_engine import exact, owned
from mpsplit.runtime.pipeline.nets.given import Given
from mpsplit.runtime.pipeline.nets.stage_net import Arrays, Together


class NcnnNet:
    """`parts` of the stage are for others too: they are computed where `run` is told how."""

    def __init__(self, pipeline: Pipeline, stage: Stage, folder: Path, files: StageFiles, threads: int):
        self.stage, self.values, self.own = stage, pipeline.values, stage.own_graph
        self.given = Given(self.own, folder, files)
        self.blobs = self.given.names
        self.net = ncnn.Net()
        self._layers: list[ncnn.Layer] = []
        if not self.own.outputs:  # shards are all there is of it
            return
        check_stage_graph(folder / files.graph, folder / files.floats, len(self.blobs), len(self.own.outputs))
        exact(self.net.opt, 1 if files.packed else threads)
        if files.packed:
            packed = Packed.load(folder, WeightFiles(files.floats, packed=((0, files.packed),)))
            self._layers = quantised_layer.register(self.net, packed, threads)
        for name, load in ((files.graph, self.net.load_param), (files.floats, self.net.load_model)):
            if load(str(folder / name)) != 0:
                raise PackageError(f"ncnn cannot load {folder / name}; convert the package again")

    def run(self, given: Arrays, length: int, together: Together | None = None) -> dict[str, np.ndarray]:
        """The stage's outputs, by the names of their values. Layers run on demand: those that a
        part waits for first, and what waits for the part when its value is there."""
        extractor = self.net.create_extractor()
        later = {part.gives for part in self.stage.parts}
        for number, name in enumerate(self.blobs):
            if name not in later:
                extractor.input(f"in{number}", self._mat(name, self.given.array(name, given, length)))
        values: dict[str, np.ndarray] = dict(given)
        for place, part in enumerate(self.stage.parts):
            if part.takes not in values:
                values[part.takes] = self._output(extractor, part.takes, length)
            assert together, f"{self.stage.name} has shards, and nobody computes them"
            values[part.gives] = together(place, values[part.takes], length)
            if part.gives in self.blobs:
                number = self.blobs.index(part.gives)
                extractor.input(f"in{number}", self._mat(part.gives, values[part.gives]))
        return {
            name: values[name] if name in later else self._output(extractor, name, length)
            for name in self.stage.outputs
        }

    def close(self) -> None:
        self.net.clear()

    def _mat(self, name: str, array: np.ndarray) -> ncnn.Mat:
        """ncnn has no axis for the batch, and whole numbers of 32 bits."""
        if array.shape[:1] == (1,) and array.ndim > 1 and name not in self.stage.whole:
            array = array[0]
        return owned(array.astype(np.int32) if array.dtype.kind == "i" else array)

    def _output(self, extractor: ncnn.Extractor, name: str, length: int) -> np.ndarray:
        status, mat = extractor.extract(f"out{self.own.outputs.index(name)}")
        shape = numbers(self.values[name].shape, length)
        if status != 0:
            raise RunError(f"stage {self.stage.name}: ncnn failed with {status} at {name} of {list(shape)}")
        array = np.array(mat)
        if array.size != np.prod(shape):
            raise RunError(f"stage {self.stage.name} gave {list(array.shape)} for {name}, which is {list(shape)}")
        assert self.values[name].type != WHOLE, "whole numbers are inputs alone"
        return array.reshape(shape)
