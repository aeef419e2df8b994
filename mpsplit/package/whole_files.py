"""Files that are whole or not there, also after a crash.

In: paths. Out: hashes, atomic writes, memory maps of weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.errors import PackageError, RunError

# dtype names as safetensors spells them; BF16 has no numpy type and is kept as its 16 bits
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


PIECE = 32 << 20
# bytes of a manifest or a graph: those of 405B over 64 ranks are a tenth of it
LARGEST_TEXT = 16 << 20


def widened(stored: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of numbers as a file has them, in one of NUMPY_TYPES."""
    if dtype == "BF16":
        wide = stored.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return stored.astype(np.float32, copy=False)


def sha256(path: Path) -> str:
    """Reads through a map that wants large pages: so a file that was not in memory is there as the
    engine likes it. What was read does not stay with this process."""
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
def beside(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; it becomes `path` when the block ends well, and the
    disk has it. It vanishes when the block does not end well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        synced(partial)
        os.replace(partial, path)
        synced(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def synced(path: Path) -> None:
    """The disk has what is in this file, or the names that are in this folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def told_if_not_written(option: str, path: str, kind: str = "file") -> Iterator[None]:
    """`path`: what the user named in an option, and the block writes."""
    try:
        yield
    except OSError as wrong:
        raise RunError(f"{option} {path} cannot be written ({wrong.strerror}); name another {kind}") from None


def json_text(data: object) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def forget_unfinished(folder: Path) -> None:
    """What `beside` could not take away, because the process was killed."""
    for partial in folder.glob(".*.[0-9]*.partial"):
        partial.unlink(missing_ok=True)  # another host that shares the folder may be faster


def write_json(path: Path, data: dict[str, Any]) -> None:
    with beside(path) as partial:
        partial.write_text(json_text(data), encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz; the same arrays give the same bytes."""
    with beside(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """An object that says everything once, and numbers that are some."""
    try:
        text = read_text(path, remedy)
        data = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as wrong:  # not JSON, not UTF-8, a number of thousands of digits, too deep
        raise PackageError(f"{path} is damaged ({wrong}); {remedy}") from None
    if not isinstance(data, dict):
        raise PackageError(f"{path} is damaged (no object); {remedy}")
    return data


def read_text(path: Path, remedy: str) -> str:
    """The text of a file of a package, which is a file, and no larger than text is."""
    if not path.is_file():
        raise PackageError(f"there is no {path.name} in {path.parent}; {remedy}")
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise PackageError(f"{path} has {size} bytes, {LARGEST_TEXT} are the most for such a file; {remedy}")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as wrong:
        raise PackageError(f"{path} cannot be read ({wrong.strerror}); {remedy}") from None
    except UnicodeDecodeError as wrong:
        raise PackageError(f"{path} is damaged ({wrong}); {remedy}") from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!a} stands twice in one object")
    return fields


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large")
    return value


def mapped(path: Path, kind: type) -> np.ndarray:
    """The file as an array, mapped; a rank may have nothing to keep in it, and nothing cannot be
    mapped."""
    size, item = path.stat().st_size, np.dtype(kind).itemsize
    if size % item:
        raise PackageError(
            f"{path} has {size} bytes, which are no whole numbers of {item}; copy it again or convert again"
        )
    return np.memmap(path, kind, "r") if size else np.empty(0, kind)
