"""The tensors of a GGUF file, read slice by slice, under the names that transformers has.

In: the path of a GGUF file. Out: a Checkpoint, whose blocks come as float32, or as they are.

Invariant: only blocks are read that the slice has a weight of.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mpsplit.export.model.checkpoint import Checkpoint, Entry, read_at, rows_of
from mpsplit.export.model.gguf.gguf_config import in_pairs, tensor_names
from mpsplit.export.model.gguf.gguf_header import GgufTensor, read_gguf
from mpsplit.export.model.gguf.gguf_types import floats
from mpsplit.package.whole_files import NUMPY_TYPES
from mpsplit.plan.cuts import WHOLE, Part


class GgufCheckpoint(Checkpoint):
    """`paired`: rows of a head, for weights whose rows are in pairs there."""

    def __init__(self, path: Path):
        self.gguf, self.bytes_read, self.place = read_gguf(path), 0, path
        self.files = self.gguf.files
        names = tensor_names(self.gguf)
        self.tensors = {weight: self.gguf.tensors[tensor] for tensor, weight in names.items()}
        self.entries = {weight: _entry(tensor) for weight, tensor in self.tensors.items()}
        self.paired = in_pairs(self.gguf, self.tensors)
        self._open = {file: os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in self.files}

    def stored(self, name: str, part: Part = WHOLE, start: int = 0, stop: int | None = None) -> np.ndarray:
        """As float32, where the file has blocks."""
        first, shape = rows_of(self.entries[name], part, start, stop)
        kind, columns = self.tensors[name].kind, part.along(1)
        blocks, before = self._blocks(name, part, first, shape[0])
        if kind.name in NUMPY_TYPES:
            return blocks.view(NUMPY_TYPES[kind.name]).reshape(shape)
        rows = floats(blocks, kind)
        return np.ascontiguousarray(rows[:, before : before + shape[1]]) if columns else rows

    def blocks(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        """uint8 [rows, bytes]: the same as the file has it, of a part that cuts no block."""
        first, (count, columns) = rows_of(self.entries[name], part, start, stop)
        blocks, before = self._blocks(name, part, first, count)
        kind = self.tensors[name].kind
        assert not before and blocks.shape[1] == kind.bytes_of(columns), f"{part} cuts blocks of {name}"
        return blocks

    def _blocks(self, name: str, part: Part, first: int, count: int) -> tuple[np.ndarray, int]:
        """uint8 [rows, bytes] of all blocks that have a weight of the part, and how many weights
        come before its first one."""
        tensor = self.tensors[name]
        kind, width = tensor.kind, tensor.shape[-1] if len(tensor.shape) > 1 else 1
        columns = part.along(1)
        begin, end = (columns.start, columns.stop) if columns else (0, width)
        blocks = range(begin // kind.weights, -(-end // kind.weights))
        rows = self._places(name, first, count)
        lowest, row_bytes = int(rows.min(initial=first)), kind.bytes_of(width)
        into = np.empty((int(rows.max(initial=first - 1)) + 1 - lowest, len(blocks) * kind.bytes), np.uint8)
        at = tensor.offset + lowest * row_bytes + blocks.start * kind.bytes
        descriptor = self._open[tensor.file]
        assert isinstance(descriptor, int)
        if into.shape[1] == row_bytes:
            read_at(descriptor, into.reshape(-1).data, at, tensor.file)
        else:
            for i, row in enumerate(into):
                read_at(descriptor, row.data, at + i * row_bytes, tensor.file)
        self.bytes_read += into.nbytes
        return into[rows - lowest], begin - blocks.start * kind.weights

    def _places(self, name: str, first: int, count: int) -> np.ndarray:
        """Where rows lie: in pairs that turn together, where transformers has the first of all
        pairs of a head, then the second."""
        rows = np.arange(first, first + count)
        if name not in self.paired:
            return rows
        size = self.paired[name]
        head, inside = np.divmod(rows, size)
        which, pair = np.divmod(inside, size // 2)
        return head * size + 2 * pair + which


def _entry(tensor: GgufTensor) -> Entry:
    return Entry(tensor.file, tensor.shape, tensor.kind.name if tensor.kind.name in NUMPY_TYPES else "F32")
