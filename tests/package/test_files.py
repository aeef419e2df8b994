import numpy as np
import pytest

from mpsplit.errors import PackageError
from mpsplit.package.files import EmbeddingRows, beside, read_json, write_json


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), beside(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(path, "") == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_missing_and_damaged_json_say_what_to_do(tmp_path):
    with pytest.raises(PackageError, match="there is no x.json .*; do this"):
        read_json(tmp_path / "x.json", "do this")
    (tmp_path / "x.json").write_text('{"a"')
    with pytest.raises(PackageError, match="is damaged .*; do this"):
        read_json(tmp_path / "x.json", "do this")


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
    ranks = [EmbeddingRows(tmp_path / "0", dtype, 0, 4), EmbeddingRows(tmp_path / "1", dtype, 3, 4)]
    assert np.array_equal(sum(rank(tokens) for rank in ranks), table[tokens])
