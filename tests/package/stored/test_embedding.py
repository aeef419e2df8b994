"""Rows of the embedding in 8 bits: half a step away, in any pieces, the same for every reader."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import PackageError
from mpsplit.package.stored.embedding import block_of, dtype_of, floats, row_bytes, stored
from mpsplit.package.stored.embedding_rows import EmbeddingRows

tables = st.tuples(st.integers(1, 9), st.integers(1, 4), st.sampled_from([32, 64, 128]), st.integers(0, 2**32 - 1))


def table(n, blocks, block, seed):
    return np.random.default_rng(seed).standard_normal((n, blocks * block), np.float32)


@given(tables)
def test_half_a_step(of):
    rows, block = table(*of), of[2]
    bytes_ = stored(rows, block)
    assert bytes_.shape == (len(rows), row_bytes(rows.shape[1], block)) and bytes_.dtype == np.uint8
    blocks = rows.reshape(len(rows), -1, block)
    step = np.abs(blocks).max(-1, keepdims=True) / 127
    error = np.abs(floats(bytes_, rows.shape[1], block).reshape(blocks.shape) - blocks)
    assert (error <= step * (0.5001 + 127 * 2**-11)).all()
    pieces = np.concatenate([stored(piece, block) for piece in np.array_split(rows, 3) if len(piece)])
    assert np.array_equal(bytes_, pieces)


def test_zeros_and_what_is_too_large():
    rows = np.zeros((3, 64), np.float32)
    rows[1] = 1e30
    back = floats(stored(rows, 32), 64, 32)
    assert not back[0].any() and np.isfinite(back[1]).all() and not back[2].any()


@pytest.mark.parametrize("dtype, width", [("Q8-33", 66), ("Q8-64", 96), ("Q8-", 64), ("I8", 64)])
def test_types_that_are_not_known(tmp_path, dtype, width):
    (tmp_path / "0").write_bytes(bytes(999))
    with pytest.raises(PackageError, match=f"embeddings of {width} numbers of type {dtype} are not known"):
        EmbeddingRows.of_file(tmp_path / "0", dtype, 0, width)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_two_ranks_add_up_to_the_lookup(tmp_path, block):
    rows = table(7, 2, block, 0)
    bytes_, width = stored(rows, block), rows.shape[1]
    bytes_[:3].tofile(tmp_path / "0")
    bytes_[3:].tofile(tmp_path / "1")
    assert block_of(dtype_of(block)) == block and block_of("BF16") is None
    ranks = [EmbeddingRows.of_file(tmp_path / str(i), dtype_of(block), first, width) for i, first in enumerate((0, 3))]
    tokens = np.array([6, 0, 3, 3, 2])
    assert np.array_equal(sum(rank(tokens) for rank in ranks), floats(bytes_, width, block)[tokens])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_embedding_rows_of_two_ranks_add_up_to_the_lookup(tmp_path, dtype):
    table = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    if dtype == "BF16":
        stored = (table.view(np.uint32) >> 16).astype(np.uint16)
        table = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        stored = table.astype({"F32": np.float32, "F16": np.float16}[dtype])
        table = stored.astype(np.float32)
    stored[:3].tofile(tmp_path / "0")
    stored[3:].tofile(tmp_path / "1")
    tokens = np.array([6, 0, 3, 3, 2])
    ranks = [EmbeddingRows.of_file(tmp_path / "0", dtype, 0, 4), EmbeddingRows.of_file(tmp_path / "1", dtype, 3, 4)]
    assert np.array_equal(sum(rank(tokens) for rank in ranks), table[tokens])
