import pytest

from mpsplit.errors import PackageError
from mpsplit.package.whole_files import beside, read_json, write_json


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
