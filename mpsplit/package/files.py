"""Files that are whole or not there. In: paths. Out: hashes, atomic writes, memory maps of weights."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package import embedding

# dtype names as safetensors spells them; BF16 has no numpy type and is kept as its 16 bits
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


PIECE = 32 << 20


def sha256(path: Path) -> str:
    """Reads through a map that wants large pages: so a file that was not in memory is there as the engine likes it. What was read
    does not stay with this process."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        if path.stat().st_size:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data, memoryview(data) as view:
                _advise(data, "MADV_HUGEPAGE")
                for start in range(0, len(data), PIECE):
                    digest.update(view[start : start + PIECE])
                    _advise(data, "MADV_DONTNEED", start, min(PIECE, len(data) - start))
    return digest.hexdigest()


def _advise(data: mmap.mmap, name: str, *where: int) -> None:
    if hasattr(mmap, name):
        with suppress(OSError):  # a kernel without it
            data.madvise(getattr(mmap, name), *where)


@contextmanager
def beside(path: Path):
    """Gives a name beside `path` to write to; it becomes `path` when the block ends well, and vanishes when it does not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: dict) -> None:
    with beside(path) as partial:
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, remedy: str) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackageError(f"there is no {path.name} in {path.parent}; {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as wrong:
        raise PackageError(f"{path} is damaged ({wrong}); {remedy}") from None


def mapped(path: Path, kind: type) -> np.ndarray:
    """The file as an array, mapped; a rank may have nothing to keep in it, and nothing cannot be mapped."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


class EmbeddingRows:
    """Rows of the embedding, read from the mapped file in the checkpoint's own 16 or 32 bits, or in 8, never held as a float table."""

    def __init__(self, path: Path, dtype: str, first_row: int, width: int):
        self.first, self.width, self.dtype = first_row, width, dtype
        self.block = embedding.block_of(dtype)
        if self.block is None and dtype not in NUMPY_TYPES or self.block and width % self.block:
            raise PackageError(
                f"embeddings of {width} numbers of type {dtype} are not known; convert the package again"
            )
        columns = embedding.row_bytes(width, self.block) if self.block else width
        self.table = mapped(path, NUMPY_TYPES.get(dtype, np.uint8)).reshape(-1, columns)

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [tokens, width]; zeros for tokens whose rows another rank owns, so that a sum over ranks is the lookup."""
        local = tokens - self.first
        mine = (local >= 0) & (local < len(self.table))
        rows = np.zeros((len(tokens), self.width), np.float32)
        rows[mine] = self._floats(self.table[local[mine]])
        return rows

    def _floats(self, picked: np.ndarray) -> np.ndarray:
        if self.block:
            return embedding.floats(picked, self.width, self.block)
        return (picked.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else picked
