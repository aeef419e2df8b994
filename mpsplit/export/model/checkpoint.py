"""A checkpoint on disk, read slice by slice.

In: a Hugging Face directory. Out: arrays, and an account of the bytes read.

safetensors are read with pread, never mapped: what was read does not stay with the process, and the
account is what the kernel counts. Older pytorch_model*.bin are mapped by torch.

Invariant: every name is either needed or listed as unused; nothing but the wanted slices is read.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsplit.errors import ModelError
from mpsplit.export.model.model_source import header
from mpsplit.package.whole_files import NUMPY_TYPES, widened
from mpsplit.plan.cuts import WHOLE, Part, source_of
from mpsplit.plan.model_facts import ModelFacts

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# types of what counts or hides, such as num_batches_tracked and masks: no weights
COUNTS = ("I64", "BOOL", "torch.int64", "torch.bool")
LAYOUTS = (  # index of several files, one file; the first that exists wins
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies and what it is; `dtype` as safetensors spells it, `offset` in the file,
    -1 where torch maps it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int = -1

    @property
    def itemsize(self) -> int:
        return np.dtype(NUMPY_TYPES[self.dtype]).itemsize


class Checkpoint:
    def __init__(self, folder: Path):
        self.bytes_read, self.place = 0, folder
        self.entries: dict[str, Entry] = {}
        self._open: dict[Path, int | dict] = {}  # a descriptor, or what torch mapped
        self.files = _weight_files(folder)
        for file in self.files:
            self.entries.update(self._scan(file))

    def close(self) -> None:
        for source in self._open.values():
            if isinstance(source, int):
                os.close(source)
        self._open.clear()

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        return source_of(weight, facts)

    def type_of(self, name: str) -> str:
        return self.entries[name].dtype

    def file_of(self, name: str) -> str:
        return self.entries[name].file.name

    def stored(self, name: str, part: Part = WHOLE, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop of a part, in the checkpoint's own type, of which BF16 is 16 bits
        without one of numpy's."""
        entry = self.entries[name]
        first, shape = rows_of(entry, part, start, stop)
        source = self._open[entry.file]
        if isinstance(source, dict):
            piece = _mapped_rows(source[name], part, first, shape)
        else:
            piece = np.empty(shape, NUMPY_TYPES[entry.dtype])
            _read_rows(source, entry, part, first, piece)
        self.bytes_read += piece.nbytes
        return piece

    def floats(self, name: str, part: Part = WHOLE, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The same in float32."""
        return widened(self.stored(name, part, start, stop), self.entries[name].dtype)

    def check(self, expected: dict[str, tuple[int, ...]], ignorable: tuple[str, ...]) -> tuple[str, ...]:
        """The names nobody needs, when all others are there in the right shape."""
        for name, shape in expected.items():
            if name not in self.entries:
                raise ModelError(
                    f"the checkpoint has no tensor {name} of shape {list(shape)}; is a file missing, or config.json of"
                    " another model?"
                )
            if self.entries[name].shape != shape:
                raise ModelError(
                    f"{name} has shape {list(self.entries[name].shape)}, config.json asks for {list(shape)}; they are"
                    " of different models"
                )
        unused = tuple(sorted(set(self.entries) - set(expected)))
        for name in unused:
            if not name.endswith(ignorable):
                raise ModelError(
                    f"the checkpoint has a tensor {name} that the architecture does not know; config.json may be of"
                    " another model"
                )
        return unused

    def _scan(self, file: Path) -> dict[str, Entry]:
        with open(file, "rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelError(
                    f"{file} is a git-lfs pointer of {file.stat().st_size} bytes, not weights; run `git lfs pull` in"
                    f" {file.parent}"
                )
        try:
            if file.suffix == ".bin":
                self._open[file], entries = _map_with_torch(file)
            else:
                entries = _safetensors_entries(file)
                self._open[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except (RuntimeError, EOFError, ValueError, KeyError, TypeError) as wrong:
            raise ModelError(
                f"{file} ({file.stat().st_size} bytes) cannot be read: {str(wrong).splitlines()[0]}; download it again"
            ) from None
        entries = {name: entry for name, entry in entries.items() if entry.dtype not in COUNTS}
        for name, entry in entries.items():
            if entry.dtype not in NUMPY_TYPES:
                raise ModelError(f"{name} has type {entry.dtype}; weights must be {', '.join(NUMPY_TYPES)}")
        return entries


def rows_of(entry: Entry, part: Part, start: int, stop: int | None) -> tuple[int, tuple[int, ...]]:
    """(row of the tensor, shape) of rows start..stop of its part."""
    rows, *rest = part.shape_of(entry.shape)
    stop = rows if stop is None else stop
    assert 0 <= start <= stop <= rows, f"rows {start} to {stop} of {rows}"
    owned = part.along(0)
    return start + (0 if owned is None else owned.start), (stop - start, *rest)


def _read_rows(descriptor: int, entry: Entry, part: Part, first: int, into: np.ndarray) -> None:
    """Whole rows in one piece; parts of rows one by one, so that nothing between them is read."""
    width = math.prod(entry.shape[1:]) * entry.itemsize
    at = entry.offset + first * width
    columns = part.along(1)
    if columns is None:
        read_at(descriptor, into.data.cast("B"), at, entry.file)
        return
    at += columns.start * entry.itemsize
    for i, row in enumerate(into):
        read_at(descriptor, row.data.cast("B"), at + i * width, entry.file)


def read_at(descriptor: int, into: memoryview, at: int, file: Path) -> None:
    while len(into):
        done = os.preadv(descriptor, [into], at)
        if not done:
            raise ModelError(f"{file} ended at {at}, {len(into)} bytes early: it was changed meanwhile; start again")
        into, at = into[done:], at + done


def _safetensors_entries(file: Path) -> dict[str, Entry]:
    """Of a header whose tensors lie behind it, one after the other up to the end."""
    size, described = header(file)
    tensors = {name: tensor for name, tensor in described.items() if name != "__metadata__"}
    entries, end = {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: pair[1]["data_offsets"]):
        dtype, shape, (start, stop) = tensor["dtype"], tuple(tensor["shape"]), tensor["data_offsets"]
        entries[name] = Entry(file, shape, dtype, size + start)
        expected = math.prod(shape) * entries[name].itemsize if dtype in NUMPY_TYPES else stop - start
        if start != end or stop - start != expected:
            raise ValueError(f"{name} of {dtype} {list(shape)} cannot be at {start}..{stop}")
        end = stop
    if size + end != file.stat().st_size:
        raise ValueError(f"its header accounts for {size + end} bytes")
    return entries


def _map_with_torch(file: Path) -> tuple[dict, dict[str, Entry]]:
    import torch

    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    source = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    return source, {name: Entry(file, tuple(t.shape), types.get(t.dtype, str(t.dtype))) for name, t in source.items()}


def _mapped_rows(tensor, part: Part, first: int, shape: tuple[int, ...]) -> np.ndarray:
    import torch

    piece = tensor[first : first + shape[0]]
    if (columns := part.along(1)) is not None:
        piece = piece[:, columns.start : columns.stop]
    piece = piece.contiguous()
    return (piece.view(torch.uint16) if piece.dtype == torch.bfloat16 else piece).numpy().copy()


def _weight_files(folder: Path) -> list[Path]:
    for index, single in LAYOUTS:
        if (folder / index).is_file():
            weight_map = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
            files = sorted({folder / name for name in weight_map.values()})
            for file in files:
                if not file.is_file():
                    raise ModelError(f"{index} names {file.name}, which is not in {folder}; download it")
            return files
        if (folder / single).is_file():
            return [folder / single]
    raise ModelError(f"{folder} has no weights; expected one of {', '.join(name for pair in LAYOUTS for name in pair)}")
