"""Rows of the embedding that a rank has, where they are mapped.

In: tokens. Out: their rows in float32; never a table of all of them.

They lie in a file of their own, or they are those of the head: a tied head is the embedding, and
where the manifest's dtype is HEAD_ROWS its matrix is stored and nothing else. Invariant: the sum of
what the ranks of a stage give is the lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.native.cpp import kernels
from mpsplit.package.inside.anatomy import LOGITS
from mpsplit.package.manifest import GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.embedding import HEAD_ROWS, block_of, floats, row_bytes
from mpsplit.package.stored.float_weights import gemm_shape, read_weights
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.quantisation import QLinear
from mpsplit.package.stored.weight_files import Packed, WeightFiles
from mpsplit.package.whole_files import NUMPY_TYPES, mapped, widened

Read = Callable[[np.ndarray], np.ndarray]  # numbers of rows -> float32 [rows, width]


class EmbeddingRows:
    def __init__(self, first: int, count: int, width: int, read: Read):
        self.first, self.count, self.width, self.read = first, count, width, read

    @classmethod
    def of_file(cls, path: Path, dtype: str, first: int, width: int) -> EmbeddingRows:
        block = block_of(dtype)
        if block is None and dtype not in NUMPY_TYPES or block and width % block:
            raise PackageError(
                f"embeddings of {width} numbers of type {dtype} are not known; convert the package again"
            )
        columns = row_bytes(width, block) if block else width
        table = mapped(path, NUMPY_TYPES.get(dtype, np.uint8))
        if len(table) % columns:
            raise PackageError(
                f"{path} has {len(table)} numbers, which are no rows of {columns}; copy it again or convert again"
            )
        table = table.reshape(-1, columns)

        def read(rows: np.ndarray) -> np.ndarray:
            return floats(table[rows], width, block) if block else widened(table[rows], dtype)

        return cls(first, len(table), width, read)

    @classmethod
    def of_head(cls, folder: Path, files: WeightFiles, first: int, count: int, width: int) -> EmbeddingRows:
        """`folder`: the rank's; its head has `count` rows."""
        param = Param.load(folder / GRAPH)
        head = head_of(param, count, width)
        if head.type == QLINEAR:
            q = QLinear.of(head)
            matrix = Packed.load(folder, files).at(q.offset, q.bytes)
            return cls(first, count, width, kernels().Weights(matrix, q.n, q.k, q.bits, q.block).unpack)
        return cls(first, count, width, read_weights(param, folder / files.floats)[head.name][0].__getitem__)

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """float32 [tokens, width]; zeros for tokens whose rows another rank owns."""
        local = tokens - self.first
        mine = (local >= 0) & (local < self.count)
        rows = np.zeros((len(tokens), self.width), np.float32)
        if mine.any():
            rows[mine] = self.read(local[mine])
        return rows


def embedding_rows(package: Path, manifest: Manifest, rank: int) -> EmbeddingRows:
    """Of a rank of the first stage."""
    folder, rows, width = rank_folder(package, rank), manifest.plan.shards[rank].embed, manifest.facts.hidden
    if manifest.dtype == HEAD_ROWS and not len(rows):
        return EmbeddingRows(0, 0, width, np.zeros)  # which nobody reads
    files = WeightFiles.load(folder)
    if manifest.dtype == HEAD_ROWS:
        return EmbeddingRows.of_head(folder, files, rows.start, len(rows), width)
    if files.embedding is None:
        raise PackageError(f"{folder} names no file of the embedding; convert the package again")
    return EmbeddingRows.of_file(folder / files.embedding, manifest.dtype, rows.start, width)


def head_of(param: Param, rows: int, width: int) -> Layer:
    """The linear that makes the logits, which must be of this size; a product with a number may
    stand between the two."""
    head = _maker_of(LOGITS, param)
    if head and head.type == "BinaryOp" and len(head.bottoms) == 1:
        head = _maker_of(head.bottoms[0], param)
    shape = None
    if head and head.type == QLINEAR:
        shape = QLinear.of(head).n, QLinear.of(head).k
    elif head and head.type == "Gemm":
        shape = gemm_shape(head)
    if head is None or shape != (rows, width):
        raise PackageError(
            f"the embedding is the head's matrix of {rows} x {width}, and the head is {head or 'missing'}"
        )
    return head


def _maker_of(blob: str, param: Param) -> Layer | None:
    return next((layer for layer in param.layers if blob in layer.tops[:1]), None)
