"""A checkpoint on disk, read slice by slice. In: a Hugging Face directory. Out: tensors, and an account of the bytes read.

Invariant: every name is either asked for or listed as unused; nothing but the asked slices is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mpsplit.errors import ModelError
from mpsplit.plan.cuts import Part

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LAYOUTS = (  # index of several files, one file; the first that exists wins
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies and what it is; `dtype` as safetensors spells it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    def __init__(self, folder: Path):
        self.bytes_read = 0
        self._open: dict[Path, object] = {}
        self.entries: dict[str, Entry] = {}
        for file in _weight_files(folder):
            self.entries.update(self._scan(file))

    def read(self, name: str, part: Part) -> torch.Tensor:
        """The part of one tensor, in the checkpoint's own type."""
        source = self._open[self.entries[name].file]
        # pytorch_model.bin is a mapped dict
        whole = source[name] if isinstance(source, dict) else source.get_slice(name)
        if part.axis is None:
            piece = whole[:]
        elif part.axis == 0:
            piece = whole[part.range.start : part.range.stop]
        else:
            piece = whole[:, part.range.start : part.range.stop]
        self.bytes_read += piece.numel() * piece.element_size()
        return piece.clone() if isinstance(source, dict) else piece

    def check(self, expected: dict[str, tuple[int, ...]], ignorable: tuple[str, ...]) -> tuple[str, ...]:
        """The names nobody needs, when all others are there in the right shape."""
        for name, shape in expected.items():
            if name not in self.entries:
                raise ModelError(
                    f"the checkpoint has no tensor {name} of shape {list(shape)}; is a file missing, or config.json of another model?"
                )
            if self.entries[name].shape != shape:
                raise ModelError(
                    f"{name} has shape {list(self.entries[name].shape)}, config.json asks for {list(shape)}; they are of different models"
                )
        unused = tuple(sorted(set(self.entries) - set(expected)))
        for name in unused:
            if not name.endswith(ignorable):
                raise ModelError(
                    f"the checkpoint has a tensor {name} that the architecture does not know; config.json may be of another model"
                )
        return unused

    def _scan(self, file: Path) -> dict[str, Entry]:
        with open(file, "rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelError(
                    f"{file} is a git-lfs pointer of {file.stat().st_size} bytes, not weights; run `git lfs pull` in {file.parent}"
                )
        try:
            if file.suffix == ".bin":
                source = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
                found = {
                    name: Entry(file, tuple(t.shape), DTYPES.get(t.dtype, str(t.dtype))) for name, t in source.items()
                }
            else:
                source = safe_open(file, "pt")
                found = {}
                for name in source.keys():  # noqa: SIM118 (safe_open is no dict)
                    piece = source.get_slice(name)
                    found[name] = Entry(file, tuple(piece.get_shape()), piece.get_dtype())
        except (SafetensorError, RuntimeError, EOFError, ValueError) as wrong:
            raise ModelError(
                f"{file} ({file.stat().st_size} bytes) cannot be read: {str(wrong).splitlines()[0]}; download it again"
            ) from None
        self._open[file] = source
        for name, entry in found.items():
            if entry.dtype not in DTYPES.values():
                raise ModelError(f"{name} has type {entry.dtype}; weights must be {', '.join(DTYPES.values())}")
        return found


def _weight_files(folder: Path) -> list[Path]:
    for index, single in LAYOUTS:
        if (folder / index).is_file():
            shown = json.loads((folder / index).read_text(encoding="utf-8"))
            files = sorted({folder / name for name in shown["weight_map"].values()})
            for file in files:
                if not file.is_file():
                    raise ModelError(f"{index} names {file.name}, which is not in {folder}; download it")
            return files
        if (folder / single).is_file():
            return [folder / single]
    raise ModelError(f"{folder} has no weights; expected one of {', '.join(name for pair in LAYOUTS for name in pair)}")
